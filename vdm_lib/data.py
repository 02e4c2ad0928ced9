"""From a data directory to batches: whole splits in memory, and which images make up the batch of a step.

A batch is a pure function of (seed, step): a resumed run, or a run on another number of hosts, sees the same
images, and nothing of the input pipeline needs to be saved.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from etils import epath
from jaxtyping import Int64, UInt8

from vdm_lib.errors import DataError, RecordError
from vdm_lib.records import Record, ShardInfo, fingerprint, image_digest, read_manifest, read_records

_REMEDY = "prepare the data again"


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


def _read_shard(path: epath.Path, shard: ShardInfo) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {_REMEDY}") from None
    if len(data) > shard.num_bytes:
        raise DataError(f"{path} has {len(data)} bytes, the manifest says {shard.num_bytes}: {_REMEDY}")
    return data


def load_split(data_dir: epath.PathLike, split: str) -> Split:
    """Load one split into memory and check every byte of it.

    Args:
        data_dir: local or gs:// directory that `vdm prepare` made.
        split: name of a split of its manifest.

    Returns:
        Images uint8 [n, h, w, c] and labels int64 [n], in the order of the index.

    Raises:
        RecordError: a shard is truncated or damaged; names the shard and the record.
        DataError: there is no manifest or no such split, or the records are not those of the manifest.
    """
    directory = epath.Path(data_dir)
    manifest = read_manifest(directory)
    if split not in manifest.splits:
        known = ", ".join(sorted(manifest.splits))
        raise DataError(f"{directory} has no split '{split}', it has: {known}")
    info = manifest.splits[split]
    images = np.empty((info.num_images, *manifest.image_shape), np.uint8)
    labels = np.empty(info.num_images, np.int64)
    digests = [b""] * info.num_images

    for shard in info.shards:
        path = directory / shard.name
        data = _read_shard(path, shard)
        num_read = 0
        try:
            for record in read_records(data):
                _check_place(record, num_read, manifest.image_shape, digests)
                images[record.index] = record.image
                labels[record.index] = record.label
                digests[record.index] = image_digest(record.image.tobytes(), record.label)
                num_read += 1
        except RecordError as error:
            raise RecordError(f"{path}: {error}; {_REMEDY}") from error
        if (num_read, len(data)) != (shard.num_images, shard.num_bytes):
            raise DataError(
                f"{path} has {num_read} records in {len(data)} bytes, "
                f"the manifest says {shard.num_images} in {shard.num_bytes}: {_REMEDY}"
            )
    if b"" in digests:
        raise DataError(f"{directory}: {split} image {digests.index(b'')} is missing: {_REMEDY}")
    if fingerprint(digests) != info.fingerprint:
        raise DataError(f"{directory}: the {split} split has another fingerprint than its manifest: {_REMEDY}")
    return Split(split, images, labels, manifest.num_levels, info.fingerprint)


def _check_place(record: Record, number: int, image_shape: tuple[int, int, int], digests: list[bytes]) -> None:
    if record.image.shape != image_shape:
        raise RecordError(f"record {number} has shape {record.image.shape}, the manifest says {image_shape}")
    if not 0 <= record.index < len(digests):
        raise RecordError(f"record {number} has index {record.index}, expected 0 to {len(digests) - 1}")
    if digests[record.index]:
        raise RecordError(f"record {number} has index {record.index}, which occurred before")


@lru_cache(maxsize=4)
def _permutation(num_images: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    # Sorting the raw output of a bit generator: NumPy promises that stream for ever, but not that of
    # Generator.permutation, and a resumed run may have a newer NumPy.
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_images)
    order = np.argsort(bits, kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class Batches:
    """Which images each step sees: random epochs laid end to end and cut into batches.

    A batch may run across the border of two epochs, so each epoch shows every image exactly once whatever the
    batch size, which may exceed the number of images.

    Attributes:
        num_images: images of the split.
        batch_size: images of one step, over all devices and hosts together.
        seed: seed of the order, not negative.
    """

    num_images: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Raise ValueError for counts below one and negative seeds."""
        if self.num_images < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(f"num_images and batch_size must be positive and seed not negative, got {self}")

    def indices_at(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return the indices of the images of a step, counted from 0: int64 [batch_size].

        Raises:
            ValueError: step is negative.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.num_images)
            taken = _permutation(self.num_images, self.seed, epoch)[offset : offset + stop - start]
            parts.append(taken)
            start += len(taken)
        return np.concatenate(parts)
