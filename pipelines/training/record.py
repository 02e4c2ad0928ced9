"""The record of a run as the training loop sees it: written by the first process, nothing on the others."""

from collections.abc import Mapping

from etils import epath

from vdm_lib.hosts import first_says, is_first
from vdm_lib.metrics import MetricsWriter


class Record:
    """Continues metrics.jsonl and TensorBoard after a step; use as a context manager."""

    def __init__(self, workdir: epath.PathLike, *, from_step: int) -> None:
        """Read what there is and drop the rows after from_step."""
        self._writer = MetricsWriter(workdir, from_step=from_step) if is_first() else None
        rows = self._writer.rows if self._writer else []
        self.skipped = first_says(int(sum(row.get("skipped_steps", 0) for row in rows)))
        """Updates that earlier calls of the run left out, the same on all processes."""

    def __enter__(self) -> "Record":
        if self._writer:
            self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer:
            self._writer.__exit__(*error)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Append a row."""
        if self._writer:
            self._writer.write(step, row)

    def show(self, step: int, pictures: Mapping[str, object]) -> None:
        """Show pictures in TensorBoard and put all that it reads in place."""
        if self._writer:
            for name, picture in pictures.items():
                self._writer.picture(name, step, picture)  # type: ignore[arg-type]
            self._writer.publish()
