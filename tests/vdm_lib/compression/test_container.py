"""The file: what was written is read, and whatever happens to a chunk is seen and named."""

import struct
import zlib

import google_crc32c
import numpy as np
import pytest

from vdm_lib.compression import container
from vdm_lib.compression.chunk import Chunk
from vdm_lib.compression.container import StoredChunk, parse, serialise
from vdm_lib.errors import RecordError

HEADER, ORIGIN = {"steps": 3}, {"kind": "files", "files": []}


def stored(seed, words=50):
    rng = np.random.default_rng(seed)
    return StoredChunk(Chunk((1, 2), rng.integers(0, 2**32, words, dtype=np.uint32), 7, 0), bytes(range(16)))


def file(*chunks):
    return serialise(HEADER, ORIGIN, chunks)


def places(data, chunks):
    size = len(chunks[0]) if isinstance(chunks[0], bytes) else 12 + 4 + 8 + 4 + 16 + 4 * 50
    begin = len(data) - len(chunks) * size
    return [slice(begin + i * size, begin + (i + 1) * size) for i in range(len(chunks))]


def test_what_was_written_is_read():
    chunks = [stored(1), stored(2)]
    archive = parse(file(*chunks), "x")
    assert archive.header["steps"] == 3 and archive.header["chunks"] == [[3, 228], [3, 228]]
    assert archive.origin == ORIGIN
    for read, written in zip(archive.chunks, chunks, strict=True):
        assert read.digest == written.digest and read.chunk.counts == (1, 2) and read.chunk.known_words == 7
        np.testing.assert_array_equal(read.chunk.words, written.chunk.words)


def test_no_flipped_bit_of_a_chunk_goes_unseen_and_the_others_are_read():
    chunks = [stored(1), stored(2), stored(3)]
    data = file(*chunks)
    middle = places(data, chunks)[1]
    for at in range(middle.start, middle.stop):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        first, second, third = parse(bytes(damaged), "x").chunks
        assert isinstance(second, str) and "chunk 1" in second
        assert isinstance(first, StoredChunk) and isinstance(third, StoredChunk)


def test_swapped_chunks_and_those_of_another_file_are_named():
    chunks = [stored(1), stored(2)]
    data = file(*chunks)
    one, two = places(data, chunks)
    swapped = data[: one.start] + data[two] + data[one]
    assert parse(swapped, "x").chunks == (
        "in the place of chunk 0 lies chunk 1",
        "in the place of chunk 1 lies chunk 0",
    )
    other = serialise({"steps": 4}, ORIGIN, chunks)
    mixed = data[: two.start] + other[-(two.stop - two.start) :]
    first, second = parse(mixed, "x").chunks
    assert isinstance(first, StoredChunk) and second == "chunk 1 is damaged: its checksum does not fit"


def test_a_file_that_was_cut_off_loses_its_end_alone():
    chunks = [stored(1), stored(2)]
    data = file(*chunks)
    one, two = places(data, chunks)
    first, second = parse(data[: two.start + 9], "x").chunks
    assert isinstance(first, StoredChunk) and second == "chunk 1 is cut off"
    assert parse(data[: one.start], "x").chunks == ("chunk 0 is missing", "chunk 1 is missing")
    for end in (0, 3, 7, 12, one.start - 1):
        with pytest.raises(RecordError):
            parse(data[:end], "x")


def test_a_damaged_header_and_bytes_too_many_are_errors():
    data = file(stored(1))
    begin = places(data, [stored(1)])[0].start
    for at in range(begin):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(RecordError, match="x"):
            parse(bytes(damaged), "x")
    with pytest.raises(RecordError, match="format version 3, this program reads 1: it is newer, or damaged"):
        parse(data[:4] + b"\x03" + data[5:], "x")
    with pytest.raises(RecordError, match="2 bytes more"):
        parse(data + b"zz", "x")


@pytest.mark.parametrize("content", [b"words", zlib.compress(b"no JSON"), zlib.compress(b"[" * 100_000)])
def test_a_section_that_was_made_up_is_an_error(content):
    data = file(stored(1))
    head = struct.pack("<II", len(content), google_crc32c.value(content)) + content
    with pytest.raises(RecordError, match="was not written by `vdm compress`"):
        parse(data[:8] + head, "made up")


@pytest.mark.parametrize(
    "body", [b"", b"123", struct.pack("<II", 7, 2**32 - 1), struct.pack("<IIHH", 7, 2, 1, 2) + b"5" * 17]
)
def test_a_chunk_that_was_made_up_does_not_lose_the_others(body, monkeypatch):
    bodies = iter([container._body(stored(1)), body])
    monkeypatch.setattr(container, "_body", lambda _: next(bodies))
    first, second = parse(file(stored(1), stored(2)), "made up").chunks
    assert isinstance(first, StoredChunk)
    assert "chunk 1 was not written by `vdm compress`" in second
