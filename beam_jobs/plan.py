"""What one data job will write, and the cut of it into tasks that workers do side by side.

A shard holds a range of indices, so a worker makes a whole shard from the source alone: no image travels between
workers, and memory does not grow with the data set.
"""

import math
from dataclasses import dataclass

from beam_jobs.sources.base import Source
from vdm_lib.errors import ConfigError, DataError

_IMAGES_PER_SHARD = 4096


@dataclass(frozen=True)
class Plan:
    """One job: the source, the directory, what is kept, and what is an error.

    Attributes:
        source: where the images come from.
        out_dir: data directory, local or gs://.
        description: the source in words, with what was left out.
        num_images: images of each split, bad ones included.
        num_shards: files of each split.
        max_bad: bad images of all splits together that are rejected before the job fails.
        fail_on_duplicates: an image that occurs twice is an error.
    """

    source: Source
    out_dir: str
    description: str
    num_images: dict[str, int]
    num_shards: dict[str, int]
    max_bad: int = 0
    fail_on_duplicates: bool = False


@dataclass(frozen=True)
class Task:
    """One shard of a split: the images with index start to stop - 1."""

    split: str
    shard: int
    start: int
    stop: int


def make_plan(
    source: Source,
    out_dir: str,
    num_shards: int | None = None,
    limit: int | None = None,
    max_bad: int = 0,
    fail_on_duplicates: bool = False,
) -> Plan:
    """Return what a job will write.

    Args:
        source: where the images come from.
        out_dir: data directory, local or gs://.
        num_shards: files of each split; None takes about 4,096 images a file, but at least two files. No
            file is left without an image.
        limit: keep the first so many images of each split.
        max_bad: bad images that are rejected before the job fails.
        fail_on_duplicates: an image that occurs twice is an error.

    Raises:
        ConfigError: num_shards or limit is below one, or max_bad below zero.
        DataError: a split is empty.
    """
    if num_shards is not None and not 1 <= num_shards <= 99_999:
        raise ConfigError(f"--shards must lie in 1..99999, got {num_shards}")
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1 image, got {limit}")
    if max_bad < 0:
        raise ConfigError(f"--max-bad must not be negative, got {max_bad}")
    for split, count in source.splits.items():
        if count < 1:
            raise DataError(f"{source.name}: the {split} split has no images")
    num_images = {split: min(count, limit or count) for split, count in source.splits.items()}
    shards = {
        split: min(count, num_shards or max(2, math.ceil(count / _IMAGES_PER_SHARD)))
        for split, count in num_images.items()
    }
    description = source.description
    if num_images != source.splits:
        description += f"; only the first {limit} images of each split"
    return Plan(source, out_dir, description, num_images, shards, max_bad, fail_on_duplicates)


def tasks_of(plan: Plan) -> list[Task]:
    """Cut every split into one range of indices for each of its shards, their sizes at most one apart."""
    tasks = []
    for split, count in plan.num_images.items():
        shards = plan.num_shards[split]
        borders = [shard * count // shards for shard in range(shards + 1)]
        tasks += [Task(split, shard, borders[shard], borders[shard + 1]) for shard in range(shards)]
    return tasks
