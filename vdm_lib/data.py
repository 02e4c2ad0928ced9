"""From a data directory to whole splits in memory, every byte checked against the manifest."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import Int64, UInt8

from vdm_lib.errors import DataError, RecordError
from vdm_lib.files.example import decode_alike
from vdm_lib.files.records import (
    Manifest,
    ShardInfo,
    SplitInfo,
    decode_example,
    frame_runs,
    image_digest,
    read_manifest,
)
from vdm_lib.files.storage import storage_errors

_REMEDY = "prepare the data again"
_HASHERS = 2  # more take turns only: each hands the interpreter over for every image


@dataclass(frozen=True)
class Split:
    """All images of one split, in the order of their index.

    Attributes:
        name: `train` or `test`.
        images: uint8 [n, h, w, c], values 0 to num_levels - 1.
        labels: int64 [n].
        num_levels: values that one channel of one pixel can take.
        fingerprint: hex SHA-256 over images and labels, as the manifest gives it.
    """

    name: str
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int64[np.ndarray, " n"]
    num_levels: int
    fingerprint: str


_Part = tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]


def _read_shard(path: epath.Path, shard: ShardInfo) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {_REMEDY}") from None
    if len(data) > shard.num_bytes:
        raise DataError(f"{path} has {len(data)} bytes, the manifest says {shard.num_bytes}: {_REMEDY}")
    return data


def _decode_one_by_one(rows: UInt8[np.ndarray, "n b"], number: int) -> Iterator[_Part]:
    for offset, row in enumerate(rows):
        try:
            record = decode_example(row.tobytes())
        except RecordError as error:
            raise RecordError(f"record {number + offset} is malformed: {error}") from error
        yield record.image[np.newaxis], np.array([record.label]), np.array([record.index])


def _decode_shard(data: bytes) -> Iterator[tuple[int, _Part]]:
    """Yield the number of its first record and images, labels and indices of each run of records of one layout."""
    number = 0
    for rows in frame_runs(data):
        try:
            alike = decode_alike(rows) if rows.shape[1] else None
        except RecordError:
            alike = None  # read again one by one, which names the record
        for part in [alike] if alike is not None else _decode_one_by_one(rows, number):
            yield number, part
            number += len(part[1])


def _read_ahead(directory: epath.Path, shards: Sequence[ShardInfo]) -> Iterator[tuple[ShardInfo, epath.Path, bytes]]:
    """Yield each shard with its path and bytes; the next is read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        waiting: deque[tuple[ShardInfo, epath.Path, Future[bytes]]] = deque()
        for shard in shards:
            path = directory / shard.name
            waiting.append((shard, path, reader.submit(_read_shard, path, shard)))
            if len(waiting) > 1:
                before, path, data = waiting.popleft()
                yield before, path, data.result()
        for shard, path, data in waiting:
            yield shard, path, data.result()


def _check_part(number: int, part: _Part, manifest: Manifest, split: SplitInfo, previous: int) -> None:
    """Raise RecordError for a record of another shape than the manifest's, or that is not the next one."""
    images, _, indices = part
    if images.shape[1:] != manifest.image_shape:
        raise RecordError(f"record {number} has shape {images.shape[1:]}, the manifest says {manifest.image_shape}")
    before = np.concatenate(([previous], indices[:-1]))
    end = split.num_images + split.num_rejected
    # Where images were rejected, their indices are missing.
    wrong = (indices <= before) | (indices >= end) if split.num_rejected else indices != before + 1
    if wrong.any():
        at = int(wrong.argmax())
        raise RecordError(f"record {number + at} has index {indices[at]} after {before[at]}, of {end}")


def _check_values(
    path: epath.Path, manifest: Manifest, images: UInt8[np.ndarray, "n h w c"], labels: Int64[np.ndarray, " n"]
) -> None:
    """Raise RecordError for a shard with a level or a label that the manifest does not allow."""
    if not len(images):
        return
    if images.max() >= manifest.num_levels:
        raise RecordError(f"{path} has level {images.max()}, outside 0..{manifest.num_levels - 1}: {_REMEDY}")
    if labels.min() < 0 or labels.max() >= manifest.num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise RecordError(f"{path} has label {wrong}, outside 0..{manifest.num_classes - 1}: {_REMEDY}")


def load_split(data_dir: epath.PathLike, split: str) -> Split:
    """Load one split into memory and check every byte of it.

    Args:
        data_dir: local or gs:// directory that `vdm prepare` made.
        split: name of a split of its manifest.

    Returns:
        Images uint8 [n, h, w, c] and labels int64 [n], in the order of the index.

    Raises:
        RecordError: a shard is truncated or damaged; names the shard and the record.
        DataError: there is no manifest or no such split, the records are not those of the manifest, or the
            object store cannot be read.
    """
    with storage_errors(data_dir):
        return _load_split(epath.Path(data_dir), split)


def _load_split(directory: epath.Path, split: str) -> Split:
    manifest = read_manifest(directory)
    if split not in manifest.splits:
        known = ", ".join(sorted(manifest.splits))
        raise DataError(f"{directory} has no split '{split}', it has: {known}")
    info = manifest.splits[split]
    images = np.empty((info.num_images, *manifest.image_shape), np.uint8)
    labels = np.empty(info.num_images, np.int64)
    done, previous = 0, -1
    digests = []
    # Hashing lets other threads run, so the images of one shard are hashed while the next is read.
    with ThreadPoolExecutor(_HASHERS) as hasher:
        for shard, path, data in _read_ahead(directory, info.shards):
            first = done
            try:
                for number, part in _decode_shard(data):
                    _check_part(number, part, manifest, info, previous)
                    if done + len(part[1]) > info.num_images:
                        raise RecordError(f"record {number} is one too many for {info.num_images} images")
                    images[done : done + len(part[1])], labels[done : done + len(part[1])] = part[:2]
                    done, previous = done + len(part[1]), int(part[2][-1])
            except RecordError as error:
                raise RecordError(f"{path}: {error}; {_REMEDY}") from error
            if (done - first, len(data)) != (shard.num_images, shard.num_bytes):
                raise DataError(
                    f"{path} has {done - first} records in {len(data)} bytes, "
                    f"the manifest says {shard.num_images} in {shard.num_bytes}: {_REMEDY}"
                )
            _check_values(path, manifest, images[first:done], labels[first:done])
            digests.append(hasher.submit(_digests, images[first:done], labels[first:done]))
    if done != info.num_images:
        raise DataError(f"{directory}: {split} has {done} images, the manifest says {info.num_images}: {_REMEDY}")
    if hashlib.sha256(b"".join(digest.result() for digest in digests)).hexdigest() != info.fingerprint:
        raise DataError(f"{directory}: the {split} split has another fingerprint than its manifest: {_REMEDY}")
    return Split(split, images, labels, manifest.num_levels, info.fingerprint)


def _digests(images: UInt8[np.ndarray, "n h w c"], labels: Int64[np.ndarray, " n"]) -> bytes:
    """Return the digests of the images, one after the other."""
    pairs = zip(images.reshape(len(images), -1), labels.tolist(), strict=True)
    return b"".join(image_digest(image.data, label) for image, label in pairs)
