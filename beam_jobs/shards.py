"""The work of the data job as plain functions: check and encode images, write a shard, commit the whole.

Which shard an image belongs to and where in it follow from its index alone, so every runner, with any number
of workers, writes the same bytes. Bad records travel with the data to the last step, which then commits
nothing: an exception inside a worker would reach the user as a traceback, another one from each runner.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from etils import epath

from beam_jobs.sources import Source
from vdm_lib.errors import DataError
from vdm_lib.records import (
    MANIFEST_NAME,
    Manifest,
    Record,
    ShardInfo,
    SplitInfo,
    encode_example,
    fingerprint,
    frame,
    image_digest,
    shard_name,
    write_atomically,
    write_manifest,
)

MARKER_NAME = "preparing.json"
"""Exists while a job writes into the directory: only where it is are shards known to be ours."""
PROBLEMS_NAME = "problems.json"
"""Written instead of the manifest when the job found a reason not to commit."""

_CHUNK_IMAGES = 1000
_IMAGES_PER_SHARD = 4096


@dataclass(frozen=True)
class Plan:
    """What one job will write: for each split the number of images, and of files to spread them over."""

    source: Source
    out_dir: str
    description: str
    num_images: dict[str, int]
    num_shards: dict[str, int]


@dataclass(frozen=True)
class Chunk:
    """The images of a split with index start to stop - 1: what one worker reads at a time."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class Problem:
    """Why the job cannot commit; split and index (of an image, a chunk or a shard) put problems in order."""

    split: str
    index: int
    message: str


@dataclass(frozen=True)
class Block:
    """The images of one chunk that belong to one shard, in the order of their index."""

    indices: tuple[int, ...] = ()
    frames: tuple[bytes, ...] = ()
    digests: tuple[bytes, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class WrittenShard:
    """One shard on disk, with the 32-byte digests of its images in order; no file if there were problems."""

    split: str
    shard: int
    info: ShardInfo | None
    digests: tuple[bytes, ...]
    problems: tuple[Problem, ...]


def make_plan(source: Source, out_dir: str, num_shards: int | None = None, limit: int | None = None) -> Plan:
    """Return what a job will write.

    Args:
        source: where the images come from.
        out_dir: data directory, local or gs://.
        num_shards: files of each split; None takes about 4,096 images a file, but at least two files. No
            file is left without an image.
        limit: keep the first so many images of each split.

    Raises:
        DataError: num_shards or limit is below one.
    """
    if num_shards is not None and not 1 <= num_shards <= 99_999:
        raise DataError(f"the number of shards must lie in 1..99999, got {num_shards}")
    if limit is not None and limit < 1:
        raise DataError(f"the limit must be at least 1 image, got {limit}")
    num_images = {split: min(count, limit or count) for split, count in source.splits.items()}
    shards = {
        split: min(count, num_shards or max(2, math.ceil(count / _IMAGES_PER_SHARD)))
        for split, count in num_images.items()
    }
    description = source.description
    if num_images != source.splits:
        description += f"; only the first {limit} images of each split"
    return Plan(source, out_dir, description, num_images, shards)


def chunks_of(plan: Plan) -> list[Chunk]:
    """Cut every split into chunks that workers can read side by side."""
    return [
        Chunk(split, start, min(start + _CHUNK_IMAGES, count))
        for split, count in plan.num_images.items()
        for start in range(0, count, _CHUNK_IMAGES)
    ]


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


def encode_chunk(plan: Plan, chunk: Chunk) -> Iterator[tuple[tuple[str, int], Block]]:
    """Read, check and encode one chunk.

    Yields:
        ((split, shard), block): image `index` belongs to shard `index % num_shards`.
    """
    num_shards = plan.num_shards[chunk.split]
    records: list[list[Record]] = [[] for _ in range(num_shards)]
    problems = []
    try:
        for record in plan.source.read(chunk.split, chunk.start, chunk.stop):
            fault = fault_of(record, plan.source)
            if fault is None:
                records[record.index % num_shards].append(record)
            else:
                problems.append(Problem(chunk.split, record.index, f"{chunk.split} image {record.index}: {fault}"))
    except (DataError, OSError) as error:
        problems.append(Problem(chunk.split, chunk.start, f"{chunk.split} cannot be read: {error}"))
    if problems:
        yield (chunk.split, 0), Block(problems=tuple(problems))
    for shard, members in enumerate(records):
        if members:
            yield (
                (chunk.split, shard),
                Block(
                    indices=tuple(record.index for record in members),
                    frames=tuple(frame(encode_example(record)) for record in members),
                    digests=tuple(image_digest(record.image.tobytes(), record.label) for record in members),
                ),
            )


def write_shard(plan: Plan, key: tuple[str, int], blocks: Iterable[Block]) -> WrittenShard:
    """Write one shard, whole or not at all; the blocks may come in any order.

    Args:
        plan: the job.
        key: split and number of the shard.
        blocks: all blocks of this shard.
    """
    split, shard = key
    num_shards = plan.num_shards[split]
    ordered = sorted(blocks, key=lambda block: block.indices)
    indices = [index for block in ordered for index in block.indices]
    digests = tuple(digest for block in ordered for digest in block.digests)
    problems = tuple(problem for block in ordered for problem in block.problems)
    expected = range(shard, plan.num_images[split], num_shards)
    if not problems and indices != list(expected):
        odd = min(set(indices) ^ set(expected), default=shard)
        message = f"{split} image {odd}: the source does not give this index exactly once"
        problems = (Problem(split, odd, message),)
    if problems:
        return WrittenShard(split, shard, None, (), problems)
    data = b"".join(encoded for block in ordered for encoded in block.frames)
    name = shard_name(split, shard, num_shards)
    try:
        write_atomically(epath.Path(plan.out_dir) / name, data)
    except OSError as error:
        problem = Problem(split, shard, f"{name} cannot be written: {error}")
        return WrittenShard(split, shard, None, (), (problem,))
    info = ShardInfo(name, len(indices), len(data), hashlib.sha256(data).hexdigest())
    return WrittenShard(split, shard, info, digests, ())


def commit(plan: Plan, written: Iterable[WrittenShard]) -> str:
    """Write the manifest if every shard is on disk, else `problems.json`; return the name of that file."""
    shards = {(shard.split, shard.shard): shard for shard in written}
    problems = [problem for shard in shards.values() for problem in shard.problems]
    out_dir = epath.Path(plan.out_dir)
    splits = {}
    for split, num_images in plan.num_images.items():
        num_shards = plan.num_shards[split]
        infos = []
        digests = [b""] * num_images
        for shard in range(num_shards):
            found = shards.get((split, shard))
            if found is None or found.info is None:
                continue
            path = out_dir / found.info.name
            if not path.exists() or path.stat().length != found.info.num_bytes:
                problems.append(Problem(split, shard, f"{path.name} was changed by another program"))
            infos.append(found.info)
            digests[shard::num_shards] = found.digests
        if len(infos) != num_shards and not problems:
            problems.append(Problem(split, 0, f"{split}: {num_shards - len(infos)} shards are missing"))
        splits[split] = SplitInfo(num_images, fingerprint(digests), tuple(infos))
    if problems:
        problems.sort(key=lambda problem: (problem.split, problem.index, problem.message))
        text = json.dumps([asdict(problem) for problem in problems])
        write_atomically(out_dir / PROBLEMS_NAME, text.encode())
        return PROBLEMS_NAME
    source = plan.source
    manifest = Manifest(
        name=source.name,
        source=plan.description,
        image_shape=source.image_shape,
        num_levels=source.num_levels,
        num_classes=source.num_classes,
        class_names=source.class_names,
        splits=splits,
    )
    write_manifest(out_dir, manifest)
    return MANIFEST_NAME
