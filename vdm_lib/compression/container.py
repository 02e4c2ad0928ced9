"""The file of compressed images, `.vdmz`: a header that says how it was made, and chunks that stand for themselves.

All numbers are little-endian:

    "VDMZ" | uint32 format version
    section: uint32 length | uint32 CRC-32C | JSON, deflated      the header: model, steps, settings, chunks
    section: the same                                             the origin: names, labels, what the images came as
    for each chunk, in as many bytes as the header says:
        "CHNK" | uint32 index | uint32 bytes of the body | uint32 CRC-32C of all this, the header's, and the body
        body: uint32 known words | uint32 batches | uint16 images of each | 16 bytes SHA-256 of the pixels | words
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from vdm_lib.compression.chunk import Chunk
from vdm_lib.errors import RecordError

FORMAT_VERSION = 1
_MAGIC, _MARK = b"VDMZ", b"CHNK"
_NUMBER, _SECTION, _HEAD = struct.Struct("<I"), struct.Struct("<II"), struct.Struct("<4sII")
_DIGEST_BYTES = 16
# Names and labels of some ten million images; what inflates to more was made to fill the memory.
_MOST_SECTION_BYTES = 2**30


@dataclass(frozen=True)
class StoredChunk:
    """A chunk with the digest of what it decodes to."""

    chunk: Chunk
    digest: bytes


@dataclass(frozen=True)
class Archive:
    """What a file holds."""

    header: Mapping[str, Any]
    origin: Mapping[str, Any]
    chunks: tuple[StoredChunk | str, ...]
    """A chunk, or what is wrong with it."""


def pixels_digest(images: UInt8[np.ndarray, "n h w c"]) -> bytes:
    """Return the first 16 bytes of SHA-256 over the pixels."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).digest()[:_DIGEST_BYTES]


def serialise(header: Mapping[str, Any], origin: Mapping[str, Any], chunks: Sequence[StoredChunk]) -> bytes:
    """Return the bytes of a file; the header gains the images and bytes of each chunk."""
    bodies = [_body(each) for each in chunks]
    sizes = [[each.chunk.num_images, len(body)] for each, body in zip(chunks, bodies, strict=True)]
    head = _section(dict(header) | {"chunks": sizes})
    parts = [_MAGIC, _NUMBER.pack(FORMAT_VERSION), head, _section(origin)]
    for index, body in enumerate(bodies):
        start = _HEAD.pack(_MARK, index, len(body))
        parts += [start, _NUMBER.pack(_checksum(start, head, body)), body]
    return b"".join(parts)


def parse(data: bytes, name: str) -> Archive:
    """Return what a file holds.

    Raises:
      RecordError: no such file, one of another version, or one whose header or origin is damaged or cut off, or that
        is longer than its header says. A damaged chunk is no error.
    """
    if data[:4] != _MAGIC:
        raise RecordError(f"{name} is no file of `vdm compress`")
    version = int.from_bytes(data[4:8], "little")
    if version != FORMAT_VERSION:
        raise RecordError(
            f"{name} has format version {version}, this program reads {FORMAT_VERSION}: it is newer, or damaged"
        )
    at = 8
    header, head, at = _read_section(data, at, f"the header of {name}")
    origin, _, at = _read_section(data, at, f"the list of images of {name}")
    chunks: list[StoredChunk | str] = []
    try:
        for index, (num_images, size) in enumerate(header["chunks"]):
            end = at + _HEAD.size + _NUMBER.size + size
            chunks.append(_read_chunk(data[at:end], index, num_images, size, head))
            at = end
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise RecordError(f"{name} was not written by `vdm compress`: {type(error).__name__} {error}") from error
    if at < len(data):
        raise RecordError(f"{name} has {len(data) - at} bytes more than its header says")
    return Archive(header, origin, tuple(chunks))


def _body(stored: StoredChunk) -> bytes:
    chunk = stored.chunk
    numbers = struct.pack("<II", chunk.known_words, len(chunk.counts))
    return numbers + np.asarray(chunk.counts, "<u2").tobytes() + stored.digest + chunk.words.astype("<u4").tobytes()


def _read_chunk(data: bytes, index: int, num_images: int, size: int, head: bytes) -> StoredChunk | str:
    if len(data) < _HEAD.size + _NUMBER.size + size:
        return f"chunk {index} is cut off" if data else f"chunk {index} is missing"
    mark, found, length = _HEAD.unpack_from(data)
    body = data[_HEAD.size + _NUMBER.size :]
    whole = _NUMBER.unpack_from(data, _HEAD.size)[0] == _checksum(data[: _HEAD.size], head, body)
    if mark == _MARK and found != index:
        return f"in the place of chunk {index} lies chunk {found}"
    if mark != _MARK or length != size or not whole:
        return f"chunk {index} is damaged: its checksum does not fit"
    try:
        known, batches = struct.unpack_from("<II", body)
        counts = np.frombuffer(body, "<u2", batches, 8)
        at = 8 + counts.nbytes
        words = np.frombuffer(body, "<u4", offset=at + _DIGEST_BYTES).astype(np.uint32)
    except (ValueError, struct.error) as error:
        return f"chunk {index} was not written by `vdm compress`: {error}"
    chunk = Chunk(tuple(counts.tolist()), words, known, 0)
    if chunk.num_images != num_images:
        return f"chunk {index} has {chunk.num_images} images, the header says {num_images}"
    return StoredChunk(chunk, body[at : at + _DIGEST_BYTES])


def _checksum(start: bytes, head: bytes, body: bytes) -> int:
    # With the header's bytes, so that a chunk of another file is none of this one.
    return google_crc32c.extend(google_crc32c.extend(google_crc32c.value(head), start), body)


def _section(values: Mapping[str, Any]) -> bytes:
    content = zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 9)
    return _SECTION.pack(len(content), google_crc32c.value(content)) + content


def _read_section(data: bytes, at: int, name: str) -> tuple[dict[str, Any], bytes, int]:
    """Return the values, the bytes, and where the next section begins."""
    if len(data) < at + _SECTION.size:
        raise RecordError(f"{name} is cut off")
    length, checksum = _SECTION.unpack_from(data, at)
    end = at + _SECTION.size + length
    content = data[at + _SECTION.size : end]
    if len(content) < length:
        raise RecordError(f"{name} is cut off or damaged")
    if google_crc32c.value(content) != checksum:
        raise RecordError(f"{name} is damaged: its checksum does not fit")
    try:
        inflate = zlib.decompressobj()
        values = json.loads(inflate.decompress(content, _MOST_SECTION_BYTES))
    except (zlib.error, ValueError, RecursionError) as error:
        raise RecordError(f"{name} was not written by `vdm compress`: {error}") from error
    return values, data[at:end], end
