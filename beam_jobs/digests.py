"""Digests of the images of a shard, in a file beside it until the job ends: in memory they would grow with the data.

The file holds 32 bytes of each image for its pixels, then 32 bytes of each image for its pixels and label, both in
the order of the index.
"""

import hashlib

import numpy as np
from etils import epath

from vdm_lib.files.records import TEMPORARY_MARK, image_digest, write_atomically

DIGEST_BYTES = 32
# Of a temporary file: the directory of a killed job is cleaned of it.
_SUFFIX = f"{TEMPORARY_MARK}digests"


def digests_path(shard: epath.Path) -> epath.Path:
    """Return the file of the digests of a shard."""
    return shard.parent / f"{shard.name}{_SUFFIX}"


def digests_size(num_images: int) -> int:
    """Return the bytes of that file."""
    return 2 * DIGEST_BYTES * num_images


class Digests:
    """The digests of one shard while it is written."""

    def __init__(self) -> None:
        self._of_pixels, self._of_images = bytearray(), bytearray()

    def add(self, pixels: bytes, label: int) -> None:
        """Take one image more."""
        self._of_pixels += hashlib.sha256(pixels).digest()
        self._of_images += image_digest(pixels, label)

    def write(self, shard: epath.Path) -> None:
        """Write them beside the shard, whole or not at all.

        Raises:
            OSError: they could not be written.
        """
        write_atomically(digests_path(shard), bytes(self._of_pixels + self._of_images))


def read_digests(shard: epath.Path) -> tuple[np.ndarray, bytes]:
    """Return what `Digests` wrote.

    Returns:
        SHA-256 of the pixels of each image: uint8 [images, 32]; SHA-256 of pixels and label of each image, one after
        the other.

    Raises:
        OSError: the file cannot be read.
    """
    data = digests_path(shard).read_bytes()
    half = len(data) // 2
    return np.frombuffer(data, np.uint8, half).reshape(-1, DIGEST_BYTES), data[half:]
