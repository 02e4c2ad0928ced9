"""What `vdm compress` takes: nothing of which a part would be lost, and every refusal is a DataError that names it."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.compression.images_in import read_given
from pipelines.compression.origin import check_origin
from vdm_lib.config import DataConfig
from vdm_lib.errors import DataError, RecordError

COLOUR = DataConfig(name="colour", image_shape=(4, 4, 3), num_levels=256)
GREY = DataConfig(name="grey", image_shape=(4, 4, 1), num_levels=256)
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def _png_of_16_bits() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in PIXELS)
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_plain_png_is_read(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_given([str(tmp_path / "a.png")], COLOUR).images, PIXELS[None])


def test_what_pillow_would_lose_of_a_png_is_refused(tmp_path):
    (tmp_path / "deep.png").write_bytes(_png_of_16_bits())
    with pytest.raises(DataError, match=r"deep.png has samples of 16 bits"):
        read_given([str(tmp_path / "deep.png")], COLOUR)
    grey = [Image.fromarray(PIXELS[..., i]) for i in range(3)]
    grey[0].save(tmp_path / "moves.png", save_all=True, append_images=grey[1:])
    with pytest.raises(DataError, match=r"moves.png has 3 frames"):
        read_given([str(tmp_path / "moves.png")], GREY)
    grey[0].save(tmp_path / "clear.png", transparency=0)
    with pytest.raises(DataError, match=r"clear.png has transparency"):
        read_given([str(tmp_path / "clear.png")], GREY)
    grey[0].save(tmp_path / "gif.png", "GIF")
    with pytest.raises(DataError, match=r"gif.png is no PNG"):
        read_given([str(tmp_path / "gif.png")], GREY)


def test_a_link_to_a_folder_is_left_out(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    given = read_given([str(tmp_path)], COLOUR)
    assert len(given.images) == 1
    assert given.left_out == (str(tmp_path / "again"),)


def _header(shape: str) -> bytes:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


@pytest.mark.parametrize(
    "content",
    [b"PK\3\4 and no more", b"words", b"", _header("(35184372088832, 4, 4, 1)"), _header(f"({2**70}, 4, 4, 1)")],
)
def test_what_is_no_array_is_named(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x.npy is no array of whole numbers") as raised:
        read_given([str(tmp_path / "x.npy")], GREY)
    assert "allow_pickle" not in str(raised.value)


@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"kind": "files", "files": [{"kind": "png", "names": ["a.png", "a.png"]}]},
        {"kind": "files", "files": [{"kind": "png", "names": ["a.png"]}]},
        {"kind": "files", "files": [{"kind": "npy", "names": ["a.npy"], "shape": [2, 4, 4], "dtype": "?"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": ["a.npy"], "shape": [], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": [5], "shape": [2, 4, 4], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": [], "shape": [2, 4, 4], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": ["a\0"], "shape": [2, 4, 4], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": ["\ud800"], "shape": [2, 4, 4], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": ["a.npy"], "shape": [2, -4, -4], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "npy", "names": ["a.npy"], "shape": [2, 4, 5], "dtype": "|u1"}]},
        {"kind": "files", "files": [{"kind": "png", "names": ["a.png", "./a.png"]}]},
        {"kind": "data", "splits": [{"name": "train", "labels": [0]}]},
        {"kind": "data", "manifest": None, "splits": [{"name": "train", "labels": [0, 1], "indices": None}]},
    ],
)
def test_a_list_of_images_that_no_encoder_wrote_is_refused(origin):
    with pytest.raises(RecordError, match="list of images"):
        check_origin(origin, 2, (4, 4, 1))


def test_a_list_of_images_names_each_of_them_once():
    files = [
        {"kind": "png", "names": ["a.png"]},
        {"kind": "npy", "names": ["b.npy"], "shape": [3, 4, 4, 1], "dtype": "|u1"},
    ]
    check_origin({"kind": "files", "files": files}, 4, (4, 4, 1))
