"""The files of a data directory: shards of TFRecords, and the manifest that says that they are complete.

A TFRecord holds one serialised Example (`vdm_lib.example`) in a frame, all little-endian:

    uint64 length | uint32 masked CRC-32C of these 8 bytes | the bytes | uint32 masked CRC-32C of the bytes
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

import google_crc32c
import numpy as np
from etils import epath
from jaxtyping import UInt8, UInt32

from vdm_lib.errors import DataError, RecordError
from vdm_lib.example import Record, decode_example, encode_example

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "TEMPORARY_MARK",
    "Manifest",
    "Record",
    "ShardInfo",
    "SplitInfo",
    "decode_example",
    "encode_example",
    "fingerprint",
    "frame",
    "frame_runs",
    "image_digest",
    "is_shard_name",
    "open_atomically",
    "read_frames",
    "read_manifest",
    "read_records",
    "shard_name",
    "write_atomically",
    "write_manifest",
]

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
TEMPORARY_MARK = ".tmp-"

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_LABEL = struct.Struct("<q")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_]+-\d{5}-of-\d{5}\.tfrecord")


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """Return the file name of one shard, such as `train-00003-of-00016.tfrecord`."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"


def is_shard_name(name: str) -> bool:
    """Say whether `shard_name` could have made this file name."""
    return _SHARD_NAME.fullmatch(name) is not None


def image_digest(image: bytes, label: int) -> bytes:
    """Return SHA-256, 32 bytes, over the image's uint8 HWC bytes and the label as little-endian int64."""
    return hashlib.sha256(image + _LABEL.pack(label)).digest()


def fingerprint(digests: Iterable[bytes]) -> str:
    """Return the fingerprint of a split: hex SHA-256 over its images' digests in the order of the index."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _masked(crc: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


def _masked_crc32c(data: bytes) -> int:
    return int(_masked(np.array([google_crc32c.value(data)], np.uint32))[0])


def frame(data: bytes) -> bytes:
    """Return the bytes of one TFRecord that holds `data`."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _FOOTER.pack(_masked_crc32c(length)), data, _FOOTER.pack(_masked_crc32c(data))))


def frame_runs(data: bytes) -> Iterator[UInt8[np.ndarray, "n b"]]:
    """Yield the contents of the TFRecords of one shard, checked against both of their checksums, in order.

    Records of one length that follow each other come at once, as a read-only view of the data: one record a row.

    Args:
        data: the bytes of a whole shard.

    Raises:
        RecordError: names the record, counted from 0, that is truncated or damaged; those before it were yielded.
    """
    at, number, size = 0, 0, len(data)
    while at < size:
        start = at + _HEADER.size
        if start > size:
            raise RecordError(f"record {number} is truncated inside its header")
        length, length_crc = _HEADER.unpack_from(data, at)
        if _masked_crc32c(data[at : at + 8]) != length_crc:
            raise RecordError(f"record {number} is damaged: the checksum of its length does not fit")
        stride = _HEADER.size + length + _FOOTER.size
        whole = (size - at) // stride
        if whole == 0:
            raise RecordError(f"record {number} is truncated: {at + stride - size} bytes are missing")
        frames = np.frombuffer(data, np.uint8, whole * stride, at).reshape(whole, stride)
        same = (frames[:, : _HEADER.size] == frames[0, : _HEADER.size]).all(axis=1)
        count = whole if same.all() else int(same.argmin())
        starts = range(start, start + count * stride, stride)
        checksums = np.array([google_crc32c.value(data[begin : begin + length]) for begin in starts], np.uint32)
        stored = frames[:count, -_FOOTER.size :].copy().view("<u4")[:, 0]
        good = _masked(checksums) == stored
        intact = count if good.all() else int(good.argmin())
        if intact:
            yield frames[:intact, _HEADER.size : -_FOOTER.size]
        if intact < count:
            raise RecordError(f"record {number + intact} is damaged: its checksum does not fit")
        at, number = at + count * stride, number + count


def read_frames(data: bytes) -> Iterator[bytes]:
    """Yield what the TFRecords of one shard hold, each checked against both of its checksums.

    Args:
        data: the bytes of a whole shard.

    Raises:
        RecordError: names the record, counted from 0, that is truncated or damaged.
    """
    for run in frame_runs(data):
        for row in run:
            yield row.tobytes()


def read_records(data: bytes) -> Iterator[Record]:
    """Yield the records of one shard, checked; the caller, who knows the shard's name, adds it to an error.

    Args:
        data: the bytes of a whole shard.

    Raises:
        RecordError: names the record, counted from 0, that is truncated, damaged or no Example of ours.
    """
    for number, payload in enumerate(read_frames(data)):
        try:
            record = decode_example(payload)
        except RecordError as error:
            raise RecordError(f"record {number} is malformed: {error}") from error
        yield record


@dataclass(frozen=True)
class ShardInfo:
    """One file of a split: its name, its images, its size in bytes and the hex SHA-256 of its bytes."""

    name: str
    num_images: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """One split: its images, their fingerprint (hex SHA-256, see `fingerprint`) and its files.

    Records lie in the order of their index, through all shards. An index is the place of an image in the source,
    so those of rejected images are missing: indices are below num_images + num_rejected.
    """

    num_images: int
    fingerprint: str
    shards: tuple[ShardInfo, ...]
    num_rejected: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a data directory holds; the content of its `manifest.json`.

    Attributes:
        name: name of the data set, as the configs call it.
        source: where the images came from, in words.
        image_shape: height, width, channels.
        num_levels: values that one channel of one pixel can take: 0 to num_levels - 1.
        num_classes: labels are 0 to num_classes - 1.
        class_names: one name for each label.
        splits: the splits by name.
        data_version: which release of the data set; results on two releases are not comparable.
        schema_version: version of this very layout.
    """

    name: str
    source: str
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int
    class_names: tuple[str, ...]
    splits: dict[str, SplitInfo]
    data_version: str = ""
    schema_version: int = SCHEMA_VERSION


def _manifest_from_json(fields: dict[str, Any]) -> Manifest:
    splits = {
        name: SplitInfo(
            num_images=int(split["num_images"]),
            fingerprint=str(split["fingerprint"]),
            shards=tuple(ShardInfo(**shard) for shard in split["shards"]),
            num_rejected=int(split["num_rejected"]),
        )
        for name, split in fields["splits"].items()
    }
    height, width, channels = map(int, fields["image_shape"])
    return Manifest(
        name=str(fields["name"]),
        source=str(fields["source"]),
        image_shape=(height, width, channels),
        num_levels=int(fields["num_levels"]),
        num_classes=int(fields["num_classes"]),
        class_names=tuple(map(str, fields["class_names"])),
        splits=splits,
        data_version=str(fields["data_version"]),
    )


def read_manifest(data_dir: epath.PathLike) -> Manifest:
    """Read `manifest.json` of a data directory, local or gs://.

    Raises:
        DataError: there is none, it is not JSON, lacks a field, or was written by another schema version.
    """
    path = epath.Path(data_dir) / MANIFEST_NAME
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        place = os.fspath(data_dir)
        raise DataError(f"{place} has no {MANIFEST_NAME}: run `vdm prepare NAME --out {place}`") from None
    try:
        fields = json.loads(text)
        version = fields["schema_version"]
        if version == SCHEMA_VERSION:
            return _manifest_from_json(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}): prepare the data again") from error
    raise DataError(
        f"{path} has schema version {version!r}, this program reads {SCHEMA_VERSION}: prepare the data again"
    )


@contextmanager
def open_atomically(path: epath.Path) -> Iterator[IO[bytes]]:
    """Open a file for writing under a temporary name; it gets its own name when the block ends without an error.

    Raises:
        OSError: nothing was written; the temporary file is removed if that is possible.
    """
    temporary = path.parent / f"{path.name}{TEMPORARY_MARK}{os.urandom(4).hex()}"
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: epath.Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: it exists as a whole or not at all.

    Raises:
        OSError: nothing was written; the temporary file is removed if that is possible.
    """
    with open_atomically(path) as stream:
        stream.write(data)


def write_manifest(data_dir: epath.PathLike, manifest: Manifest) -> None:
    """Write `manifest.json` atomically; to be called last, as it declares the directory complete.

    Raises:
        OSError: the manifest could not be written; none is left behind.
    """
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n"
    write_atomically(epath.Path(data_dir) / MANIFEST_NAME, text.encode())
