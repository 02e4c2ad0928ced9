"""The record of a run, `metrics.jsonl`, and its view for TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from vdm_lib.errors import CheckpointError


def mean_metrics(rows: Sequence[Mapping[str, int | float]]) -> dict[str, float]:
    """Return the mean of each key over the rows."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def read_metrics(path: Path | epath.Path) -> list[dict[str, int | float]]:
    """Return the rows of a metrics.jsonl in order; a last line cut short by a kill is left out.

    Raises:
      CheckpointError: a line that is no row; names the file and the line.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(f"{path}, line {number}, is no row of metrics: mend or remove that line") from None
    return rows


class MetricsWriter:
    """Appends rows to metrics.jsonl and scalars to TensorBoard; use as a context manager."""

    def __init__(self, workdir: Path, *, from_step: int) -> None:
        """Continue the record of `workdir` after `from_step`: later rows of a run that was killed are dropped."""
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= from_step]
        temporary = path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=from_step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row; it is on disk when this returns."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
