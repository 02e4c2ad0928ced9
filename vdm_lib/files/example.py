"""One record as a serialised `tf.train.Example`, without TensorFlow.

An Example is a protobuf map from feature names to lists of values. The wire format is written by hand here:
it is small, it makes equal records equal bytes (protobuf leaves the order of a map open), and a training host
needs no TensorFlow to read it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from vdm_lib.errors import RecordError

# A field's tag on the wire is its number << 3 | its wire type. Field 1 is Example.features, Features.feature,
# a map entry's key, Feature.bytes_list and a list's values; field 2 is a map entry's value; field 3 is
# Feature.int64_list. A list of integers is packed into one field, or has one field for each.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIELD_1 = 1 << 3 | _BYTES
_FIELD_2 = 2 << 3 | _BYTES
_FIELD_3 = 3 << 3 | _BYTES
_FIELD_1_VARINT = 1 << 3 | _VARINT


@dataclass(frozen=True)
class Record:
    """One image as it is stored.

    Attributes:
        image: uint8, height x width x channels.
        label: class of the image, from 0.
        index: position of the image in its split, from 0.
    """

    image: UInt8[np.ndarray, "h w c"]
    label: int
    index: int


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # protobuf writes a negative int64 as its two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(tag: int, payload: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(payload)) + payload


def _int64_feature(values: Iterable[int]) -> bytes:
    return _delimited(_FIELD_3, _delimited(_FIELD_1, b"".join(map(_varint, values))))


def _entry(name: bytes, feature: bytes) -> bytes:
    return _delimited(_FIELD_1, _delimited(_FIELD_1, name) + _delimited(_FIELD_2, feature))


def _numbers(record: Record) -> tuple[bytes, bytes, bytes]:
    """Return the entries that follow the pixels."""
    return (
        _entry(b"index", _int64_feature([record.index])),
        _entry(b"label", _int64_feature([record.label])),
        _entry(b"shape", _int64_feature(record.image.shape)),
    )


def encode_example(record: Record) -> bytes:
    """Return the record as a serialised `tf.train.Example`; equal records give equal bytes.

    The features are `image` (one bytes value: the raw uint8 pixels, HWC), `shape` (three int64), `label` and
    `index` (one int64 each), in alphabetical order, as protobuf's own deterministic mode writes them.
    """
    image = _entry(b"image", _delimited(_FIELD_1, _delimited(_FIELD_1, record.image.tobytes())))
    return _delimited(_FIELD_1, b"".join((image, *_numbers(record))))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise RecordError("a number of more than 64 bits")
    return value & 0xFFFF_FFFF_FFFF_FFFF, at + 1


def _fields(data: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """List the fields of the message data[at:end] as (tag, start, end) of what follows tag and length."""
    fields = []
    while at < end:
        tag, at = _read_varint(data, at)
        wire_type = tag & 7
        if wire_type == _BYTES:
            length, start = _read_varint(data, at)
            at = start + length
        else:
            start = at
            if wire_type == _VARINT:
                at = _read_varint(data, at)[1]
            elif wire_type == _FIXED64:
                at += 8
            elif wire_type == _FIXED32:
                at += 4
            else:
                raise RecordError(f"unknown protobuf wire type {wire_type}")
        if at > end:
            raise RecordError("a field is longer than the message that holds it")
        fields.append((tag, start, at))
    return fields


def _only(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Return where the last field with this tag starts and ends: protobuf lets the last one win."""
    span = None
    for found, start, stop in _fields(data, at, end):
        if found == tag:
            span = start, stop
    if span is None:
        raise RecordError("a feature of another type than expected")
    return span


def _int64_list(data: bytes, at: int, end: int) -> list[int]:
    values = []
    for tag, start, stop in _fields(data, *_only(data, at, end, _FIELD_3)):
        if tag not in (_FIELD_1, _FIELD_1_VARINT):
            continue
        while start < stop:
            value, start = _read_varint(data, start)
            values.append(value - (1 << 64) if value >> 63 else value)
        if start > stop:
            raise RecordError("a number is longer than the list that holds it")
    return values


def _one_int64(data: bytes, at: int, end: int, name: str) -> int:
    values = _int64_list(data, at, end)
    if len(values) != 1:
        raise RecordError(f"feature '{name}' has {len(values)} values, expected 1")
    return values[0]


def _parse_example(data: bytes) -> Record:
    spans: dict[bytes, tuple[int, int]] = {}
    for tag, start, stop in _fields(data, 0, len(data)):
        if tag != _FIELD_1:
            continue
        for entry_tag, entry_start, entry_stop in _fields(data, start, stop):
            if entry_tag != _FIELD_1:
                continue
            name, value = b"", (entry_stop, entry_stop)
            for part_tag, part_start, part_stop in _fields(data, entry_start, entry_stop):
                if part_tag == _FIELD_1:
                    name = data[part_start:part_stop]
                elif part_tag == _FIELD_2:
                    value = part_start, part_stop
            spans[name] = value
    for name in (b"image", b"index", b"label", b"shape"):
        if name not in spans:
            raise RecordError(f"feature '{name.decode()}' is missing")
    shape = _int64_list(data, *spans[b"shape"])
    start, stop = _only(data, *_only(data, *spans[b"image"], _FIELD_1), _FIELD_1)
    if len(shape) != 3 or min(shape) < 1 or shape[0] * shape[1] * shape[2] != stop - start:
        raise RecordError(f"feature 'image' has {stop - start} bytes, which do not fill shape {shape}")
    return Record(
        image=np.frombuffer(data, np.uint8, stop - start, start).reshape(shape),
        label=_one_int64(data, *spans[b"label"], "label"),
        index=_one_int64(data, *spans[b"index"], "index"),
    )


def decode_example(data: bytes) -> Record:
    """Return the record of a serialised `tf.train.Example`, whatever the order of its features.

    Args:
        data: what `encode_example` or TensorFlow wrote. The image is a read-only view of these bytes.

    Returns:
        The record; features of other names are ignored.

    Raises:
        RecordError: the bytes are not such an Example.
    """
    try:
        return _parse_example(data)
    except IndexError:
        raise RecordError("the Example ends in the middle of a number") from None


def _decode_column(
    rows: UInt8[np.ndarray, "n b"], stop: int, value: int
) -> tuple[slice, Int64[np.ndarray, " n"] | None]:
    """Decode a number of as many bytes as `value` has, ending before column `stop`; None if one has another length."""
    columns = slice(stop - len(_varint(value)), stop)
    digits = rows[:, columns].astype(np.int64)
    goes_on = digits > 0x7F  # every byte of a number but its last has the high bit
    if digits.shape[1] > 8 or goes_on[:, -1].any() or not goes_on[:, :-1].all():
        return columns, None
    return columns, ((digits & 0x7F) << 7 * np.arange(digits.shape[1])).sum(axis=1)


def decode_alike(
    rows: UInt8[np.ndarray, "n b"],
) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]] | None:
    """Decode Examples of one layout at once, which is many times faster than one by one.

    Args:
        rows: one serialised Example a row, at least one row.

    Returns:
        Images, labels and indices; None unless `encode_example` wrote all rows and they differ in nothing else.

    Raises:
        RecordError: the first row is no Example of ours.
    """
    first = decode_example(rows[0].tobytes())
    if encode_example(first) != rows[0].tobytes():
        return None
    index, label, shape = map(len, _numbers(first))
    index_stop = rows.shape[1] - shape - label
    pixels = slice(index_stop - index - first.image.size, index_stop - index)
    index_columns, indices = _decode_column(rows, index_stop, first.index)
    label_columns, labels = _decode_column(rows, index_stop + label, first.label)
    if indices is None or labels is None:
        return None
    fixed = np.ones(rows.shape[1], bool)
    for columns in (pixels, index_columns, label_columns):
        fixed[columns] = False
    if not (rows[:, fixed] == rows[0, fixed]).all():
        return None
    return rows[:, pixels].reshape(-1, *first.image.shape), labels, indices
