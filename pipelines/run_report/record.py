"""What a run directory says about its run, read once; imports no jax."""

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from pipelines.run_dir import read_config
from vdm_lib.config import Config
from vdm_lib.errors import CheckpointError
from vdm_lib.files.without_torch import without_torch
from vdm_lib.metrics import read_metrics
from vdm_lib.report import BpdReport

# Of the grids that a long run has drawn, so many are shown, evenly spaced.
_MOST_PICTURES = 12
# A scalar of TensorBoard is far smaller than this, a picture is far larger.
_LEAST_PICTURE_BYTES = 400


@dataclass(frozen=True)
class Picture:
    """A grid of samples."""

    title: str
    png: bytes

    @property
    def data_url(self) -> str:
        """The picture as text that stands in the page itself."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Run:
    """The record of one run."""

    name: str
    workdir: str
    config: Config
    columns: dict[str, np.ndarray]
    """metrics.jsonl by column, float64; NaN where a row lacks the column."""
    reports: dict[str, BpdReport]
    """The evaluations by file name, in the order of their steps."""
    provenance: dict[str, Any]
    pictures: list[Picture]

    @property
    def data_set(self) -> str:
        """What the bits per dimension are of: numbers of two data sets cannot be compared."""
        data = self.config.data
        return f"{data.name} {'x'.join(map(str, data.image_shape))}, {data.num_levels} levels"

    @property
    def own_reports(self) -> list[BpdReport]:
        """The evaluations in the run's own way, oldest first; others are measured differently."""
        return [report for name, report in self.reports.items() if name.removesuffix(".json").isdecimal()]


def read_run(workdir: str) -> Run:
    """Return the record of a run.

    Raises:
        CheckpointError: no run, or a file of it that cannot be read; names the file.
    """
    root = epath.Path(workdir)
    config = read_config(workdir)
    return Run(
        name=root.name,
        workdir=workdir,
        config=config,
        columns=_columns(read_metrics(root / "metrics.jsonl")),
        reports=_reports(root / "eval"),
        provenance=_json(root / "provenance.json") if (root / "provenance.json").exists() else {},
        pictures=_thinned([*_board_pictures(root / "tensorboard"), *_files(root / "samples")]),
    )


def _columns(rows: list[dict[str, int | float]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}


def _reports(directory: epath.Path) -> dict[str, BpdReport]:
    if not directory.exists():
        return {}
    reports = {
        path.name: BpdReport.from_fields(_json(path), str(path))
        for path in directory.iterdir()
        if path.suffix == ".json"
    }
    return dict(sorted(reports.items(), key=lambda item: (item[1].step, item[0])))


def _json(path: epath.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): mend or remove it") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged (no object): mend or remove it")
    return value


def _files(directory: epath.Path) -> Iterator[Picture]:
    if directory.exists():
        for path in sorted(directory.iterdir(), key=lambda path: path.name):
            if path.suffix == ".png":
                yield Picture(path.name, path.read_bytes())


def _board_pictures(directory: epath.Path) -> Iterator[Picture]:
    """Yield the sample grids that training wrote for TensorBoard, oldest first."""
    if not directory.exists():
        return
    from google.protobuf.message import DecodeError

    with without_torch():
        from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(directory.iterdir(), key=lambda path: path.name):
        if "tfevents" in path.name:
            for record in _large_records(path.read_bytes()):
                try:
                    event = Event.FromString(record)
                except DecodeError:
                    raise CheckpointError(f"{path} is damaged: remove it, the rows of metrics.jsonl stay") from None
                for value in event.summary.value:
                    if value.HasField("image") and "samples" in value.tag:
                        found[event.step] = value.image.encoded_image_string
    for step, png in sorted(found.items()):
        yield Picture(f"step {step:,}", png)


def _large_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of an events file that may hold a picture; one cut short at the end is left out.

    A record is its length (uint64), a checksum of that (uint32), its bytes and their checksum (uint32).
    """
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        end = place + 12 + length
        if end + 4 > len(data):
            return
        if length >= _LEAST_PICTURE_BYTES:
            yield data[place + 12 : end]
        place = end + 4


def _thinned(pictures: list[Picture]) -> list[Picture]:
    if len(pictures) <= _MOST_PICTURES:
        return pictures
    return [pictures[round(i)] for i in np.linspace(0, len(pictures) - 1, _MOST_PICTURES)]
