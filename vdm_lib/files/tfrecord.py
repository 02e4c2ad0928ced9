"""The frame of TFRecords: how a shard holds the bytes of its records, with checksums.

All numbers are little-endian:

    uint64 length | uint32 masked CRC-32C of these 8 bytes | the bytes | uint32 masked CRC-32C of the bytes
"""

import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np
from jaxtyping import UInt8, UInt32

from vdm_lib.errors import RecordError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


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
