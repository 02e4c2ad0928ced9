"""The files of a data directory: shards of TFRecords, and the manifest that says that they are complete.

A TFRecord (`vdm_lib.files.tfrecord`) holds one serialised Example (`vdm_lib.files.example`).
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from etils import epath

from vdm_lib.errors import DataError, RecordError
from vdm_lib.files.example import Record, decode_example, encode_example
from vdm_lib.files.tfrecord import frame, frame_runs, read_frames

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

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"
TEMPORARY_MARK = ".tmp-"

_LABEL = struct.Struct("<q")
_HEX_DIGEST = "[0-9a-f]{64}"
_SHARD_NAME = re.compile(r"[A-Za-z0-9_]+-\d{5}-of-\d{5}\.tfrecord")


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """Return the file name of one shard, such as `train-00003-of-00016.tfrecord`."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"


def is_shard_name(name: str) -> bool:
    """Say whether `shard_name` could have made this file name."""
    return _SHARD_NAME.fullmatch(name) is not None


def image_digest(image: bytes | memoryview, label: int) -> bytes:
    """Return SHA-256, 32 bytes, over the image's uint8 HWC bytes and the label as little-endian int64."""
    digest = hashlib.sha256(image)  # in two parts: joining them would copy every image
    digest.update(_LABEL.pack(label))
    return digest.digest()


def fingerprint(digests: Iterable[bytes]) -> str:
    """Return the fingerprint of a split: hex SHA-256 over its images' digests in the order of the index."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


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
    """What a data directory holds; the content of its `manifest.json`, which adds a checksum of it all as `sha256`.

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


def _checksum(fields: dict[str, Any]) -> str:
    """Return hex SHA-256 over all fields but the checksum itself, as JSON with sorted keys and without spaces."""
    others = {key: value for key, value in fields.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _whole(fields: Any, key: str, least: int, greatest: int = 2**63 - 1) -> int:
    value = fields[key]
    if type(value) is not int or not least <= value <= greatest:
        raise ValueError(f"{key} is {value!r}")
    return value


def _words(fields: Any, key: str, form: str) -> str:
    value = fields[key]
    if not isinstance(value, str) or re.fullmatch(form, value, re.DOTALL) is None:
        raise ValueError(f"{key} is {value!r}")
    return value


def _shard_from_json(fields: Any) -> ShardInfo:
    # The form of the name keeps a manifest from naming files outside its directory.
    return ShardInfo(
        name=_words(fields, "name", _SHARD_NAME.pattern),
        num_images=_whole(fields, "num_images", 0),
        num_bytes=_whole(fields, "num_bytes", 0),
        sha256=_words(fields, "sha256", _HEX_DIGEST),
    )


def _manifest_from_json(fields: dict[str, Any]) -> Manifest:
    if fields["sha256"] != _checksum(fields):
        raise ValueError("its checksum does not fit: it was edited or damaged")
    splits = {
        name: SplitInfo(
            num_images=_whole(split, "num_images", 1),
            fingerprint=_words(split, "fingerprint", _HEX_DIGEST),
            shards=tuple(map(_shard_from_json, split["shards"])),
            num_rejected=_whole(split, "num_rejected", 0),
        )
        for name, split in fields["splits"].items()
    }
    height, width, channels = (_whole({"image_shape": size}, "image_shape", 1) for size in fields["image_shape"])
    return Manifest(
        name=_words(fields, "name", ".+"),
        source=_words(fields, "source", ".*"),
        image_shape=(height, width, channels),
        num_levels=_whole(fields, "num_levels", 2, 256),
        num_classes=_whole(fields, "num_classes", 1),
        class_names=tuple(_words({"class_names": name}, "class_names", ".*") for name in fields["class_names"]),
        splits=splits,
        data_version=_words(fields, "data_version", ".*"),
    )


def read_manifest(data_dir: epath.PathLike) -> Manifest:
    """Read `manifest.json` of a data directory, local or gs://.

    Raises:
        DataError: there is none, it is not JSON, was edited, lacks a field, has one of a wrong type or value, or was
            written by another schema version.
    """
    path = epath.Path(data_dir) / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        place = os.fspath(data_dir)
        raise DataError(f"{place} has no {MANIFEST_NAME}: run `vdm prepare NAME --out {place}`") from None
    try:
        fields = json.loads(data)
        version = fields["schema_version"]
        if type(version) is int and version == SCHEMA_VERSION:
            return _manifest_from_json(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is damaged ({reason}): prepare the data again") from error
    raise DataError(
        f"{path} has schema version {version!r}, this program reads {SCHEMA_VERSION}: prepare the data again"
    )


@contextmanager
def open_atomically(path: epath.Path) -> Iterator[IO[bytes]]:
    """Open a file for writing under a temporary name; it gets its own name when the block ends without an error.

    Raises:
        OSError: nothing was written; `filename` is the path unless the error names another file. The temporary file
            is removed if that is possible.
    """
    temporary = path.parent / f"{path.name}{TEMPORARY_MARK}{os.urandom(4).hex()}"
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    except BaseException as error:
        nameless = (None, temporary, os.fspath(temporary))
        if isinstance(error, OSError) and error.errno is not None and error.filename in nameless:
            # A full disk does not say which file; the temporary name means nothing to anybody.
            error.filename = os.fspath(path)
        with suppress(OSError):
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
    fields = asdict(manifest)
    text = json.dumps(fields | {"sha256": _checksum(fields)}, indent=2, sort_keys=True) + "\n"
    write_atomically(epath.Path(data_dir) / MANIFEST_NAME, text.encode())
