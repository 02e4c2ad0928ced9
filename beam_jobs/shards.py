"""One shard: read its images, check each, write it as a stream, and keep what the commit needs to know.

Problems travel with the data to the last step, which then commits nothing: an exception inside a worker would reach
the user as a traceback, another one from each runner.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from etils import epath

from beam_jobs.digests import Digests
from beam_jobs.plan import Plan, Task
from beam_jobs.sources.base import Source, Unreadable
from beam_jobs.statistics import Statistics, no_statistics, statistics_of
from vdm_lib.errors import DataError
from vdm_lib.files.records import Record, ShardInfo, encode_example, frame, open_atomically, shard_name
from vdm_lib.files.storage import storage_errors

NUM_SAMPLES = 100
"""Images of each split that the page shows."""
_IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class Problem:
    """Why the job cannot commit, or a rejected image; split and index put problems in order."""

    split: str
    index: int
    message: str


@dataclass(frozen=True)
class WrittenShard:
    """What became of a task; no file if it failed.

    Attributes:
        task: which shard.
        info: the file, None if it was not written.
        statistics: counts over its images.
        samples: the images that the page shows.
        rejects: its bad images, in order, at most one more than the plan allows.
        problem: why the shard was not written.
    """

    task: Task
    info: ShardInfo | None
    statistics: Statistics
    samples: tuple[Record, ...] = ()
    rejects: tuple[Problem, ...] = ()
    problem: Problem | None = None


def fault_of(record: Record, source: Source) -> str | None:
    """Return what is wrong with a record of this source, or None."""
    image = record.image
    if image.dtype != np.uint8:
        return f"the pixels are {image.dtype}, expected uint8"
    if image.shape != source.image_shape:
        return f"the image has shape {image.shape}, expected {source.image_shape}"
    if not 0 <= record.label < source.num_classes:
        return f"label {record.label} is outside 0..{source.num_classes - 1}"
    if int(image.max()) >= source.num_levels:
        return f"level {int(image.max())} is outside 0..{source.num_levels - 1}"
    return None


def _read_checked(plan: Plan, task: Task, rejects: list[Problem]) -> Iterator[Record]:
    """Yield the good records of a task and note the bad ones.

    Raises:
        DataError: the source cannot be read, gives other indices, or there are more bad images than allowed.
    """
    expected = task.start
    for record in plan.source.read(task.split, task.start, task.stop):
        if record.index != expected:
            break
        expected += 1
        fault = record.reason if isinstance(record, Unreadable) else fault_of(record, plan.source)
        if fault is None:
            assert isinstance(record, Record)
            yield record
            continue
        rejects.append(Problem(task.split, record.index, fault))
        if len(rejects) > plan.max_bad:
            return
    else:
        if expected == task.stop:
            return
    raise DataError(f"image {expected}: the source does not give this index exactly once, in order")


def _is_sample(index: int, num_images: int) -> bool:
    """Say whether the page shows this image: about NUM_SAMPLES indices, evenly spaced."""
    return index * NUM_SAMPLES // num_images != (index - 1) * NUM_SAMPLES // num_images


class _Tally:
    """What is known of the records written so far; counted a few hundred at a time."""

    def __init__(self, source: Source):
        self._source = source
        self._waiting: list[Record] = []
        self.statistics = no_statistics(source.image_shape[-1], source.num_levels, source.num_classes)
        self.digests = Digests()
        self.num_images = 0

    def add(self, record: Record) -> None:
        self.digests.add(record.image.tobytes(), record.label)
        self.num_images += 1
        self._waiting.append(record)
        if len(self._waiting) == _IMAGES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            images = np.stack([record.image for record in self._waiting])
            labels = np.array([record.label for record in self._waiting])
            source = self._source
            self.statistics += statistics_of(images, labels, source.num_levels, source.num_classes)
            self._waiting.clear()


def write_shard(plan: Plan, task: Task) -> WrittenShard:
    """Read, check and write one shard, whole or not at all."""
    source, split = plan.source, task.split
    name = shard_name(split, task.shard, plan.num_shards[split])
    path = epath.Path(plan.out_dir) / name
    tally = _Tally(source)
    samples: list[Record] = []
    rejects: list[Problem] = []
    checksum, num_bytes, problem, info = hashlib.sha256(), 0, None, None
    try:
        with storage_errors(name), open_atomically(path) as stream:
            for record in _read_checked(plan, task, rejects):
                data = frame(encode_example(record))
                stream.write(data)
                checksum.update(data)
                num_bytes += len(data)
                tally.add(record)
                if _is_sample(record.index, plan.num_images[split]):
                    samples.append(record)
        tally.flush()
        with storage_errors(name):
            tally.digests.write(path)
        info = ShardInfo(name, tally.num_images, num_bytes, checksum.hexdigest())
    except DataError as error:
        problem = Problem(split, task.start, str(error))
    except OSError as error:
        # Which file, but not the number of the error, which means nothing to anybody.
        where = "" if error.filename is None else f": {error.filename}"
        problem = Problem(split, task.start, f"shard {name}: {error.strerror or error}{where}")
    return WrittenShard(
        task=task,
        info=info,
        statistics=tally.statistics,
        samples=tuple(samples),
        rejects=tuple(rejects),
        problem=problem,
    )
