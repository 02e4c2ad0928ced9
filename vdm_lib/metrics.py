"""The record of a run, `metrics.jsonl`, and its view for TensorBoard."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from vdm_lib.errors import CheckpointError
from vdm_lib.files.records import write_atomically
from vdm_lib.files.without_torch import without_torch


def mean_metrics(rows: Sequence[Mapping[str, int | float]]) -> dict[str, float]:
    """Return the mean of each key over the rows."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def read_metrics(path: epath.PathLike) -> list[dict[str, int | float]]:
    """Return the rows of a metrics.jsonl in order; a last line cut short by a kill is left out.

    Raises:
      CheckpointError: a line that is no row; names the file and the line.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not _is_row(row):
            raise CheckpointError(f"{path}, line {number}, is no row of metrics: mend or remove that line")
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Say whether this is an object of numbers (null is allowed) with a whole step from 0 on."""
    if not isinstance(row, dict) or not all(value is None or _is_number(value) for value in row.values()):
        return False
    step = row.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63


def _is_number(value: Any) -> bool:
    # A whole number that no float64 holds cannot be drawn.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


class MetricsWriter:
    """Appends rows to metrics.jsonl and scalars and pictures to TensorBoard; use as a context manager.

    An object store cannot append. On gs:// both are written to a temporary directory here, and `publish` puts the
    whole files in place: the rows at each `write`, TensorBoard's at each checkpoint. What a kill loses is only what a
    resumed run drops and writes again anyway.
    """

    def __init__(self, workdir: epath.PathLike, *, from_step: int) -> None:
        """Continue the record of `workdir` after `from_step`: later rows of a run that was killed are dropped."""
        self._workdir, self._from_step = epath.Path(workdir), from_step
        self._open = ExitStack()
        self._remote = str(workdir).startswith("gs://")
        self.rows = [row for row in read_metrics(self._workdir / "metrics.jsonl") if row["step"] <= from_step]
        if self._remote:
            self._local = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="vdm-record-")))
        else:
            self._local = Path(os.fspath(self._workdir))
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self._workdir / "metrics.jsonl", text.encode())
        if self._remote:
            (self._local / "metrics.jsonl").write_text(text)

    def __enter__(self) -> "MetricsWriter":
        with without_torch():
            from tensorboardX import SummaryWriter

        self._file = self._open.enter_context((self._local / "metrics.jsonl").open("a"))
        self._board = SummaryWriter(str(self._local / "tensorboard"), purge_step=self._from_step + 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        self.publish()
        self._open.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row; it is in place when this returns."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._remote:
            self._copy(self._local / "metrics.jsonl")
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def picture(self, name: str, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Show a picture in TensorBoard."""
        self._board.add_image(name, picture, step, dataformats="HWC")

    def publish(self) -> None:
        """Put what TensorBoard reads in place."""
        self._board.flush()
        if self._remote:
            for file in (self._local / "tensorboard").iterdir():
                self._copy(file)

    def _copy(self, file: Path) -> None:
        target = self._workdir / file.relative_to(self._local).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, file.read_bytes())
