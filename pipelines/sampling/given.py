"""What the user gives to a picture of sampling: images of a data directory, and a mask."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, UnidentifiedImageError

from vdm_lib.config import DataConfig
from vdm_lib.data import Split, load_split
from vdm_lib.errors import ConfigError, DataError


@dataclass(frozen=True)
class Given:
    """Which images of a data directory."""

    data: str
    split: str = "test"
    indices: tuple[int, ...] = ()
    """Numbers from 0 on; empty takes the first ones."""


class Images(NamedTuple):
    """Images of a data directory, and the label that each has there."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Integer[np.ndarray, " n"]


def read_images(given: Given, like: DataConfig, num: int) -> Images:
    """Return the images that are named, or the first `num`, with their labels.

    Raises:
      DataError: no data directory, or images that the model cannot take.
      ConfigError: an index that the split does not have.
    """
    split = load_split(given.data, given.split)
    check_split(split, like, given.data)
    indices: Sequence[int] = given.indices or range(min(num, len(split.images)))
    for index in indices:
        if not 0 <= index < len(split.images):
            raise ConfigError(f"--images must lie in 0..{len(split.images) - 1}, the split {given.split}, got {index}")
    which = np.asarray(indices)
    return Images(split.images[which], split.labels[which])


def check_split(split: Split, like: DataConfig, data: str) -> None:
    """Raise DataError if a split of the directory `data` has images that the model cannot take."""
    if split.images.shape[1:] != like.image_shape or split.num_levels != like.num_levels:
        raise DataError(
            f"{data} has images of {split.images.shape[1:]} with {split.num_levels} levels, the model is of "
            f"{like.image_shape} with {like.num_levels}: give the data that it was trained on"
        )


def read_mask(path: str, like: DataConfig) -> Bool[np.ndarray, "h w"]:
    """Return where a mask is white, or more than half as bright: the pixels to draw.

    Raises:
      ConfigError: no picture, one of another size than the images, or one without a white pixel.
    """
    height, width, _ = like.image_shape
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes())) as picture:
            picture.load()
            grey = np.asarray(picture.convert("L"))
    except FileNotFoundError:
        raise ConfigError(f"the mask {path} does not exist") from None
    except UnidentifiedImageError:
        raise ConfigError(f"the mask {path} cannot be read as a picture: it is of no kind that is known") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What is damaged fails in many ways.
        raise ConfigError(f"the mask {path} cannot be read as a picture: {error}") from None
    if grey.shape != (height, width):
        raise ConfigError(
            f"the mask {path} has {grey.shape[1]}x{grey.shape[0]} pixels, the images have {width}x{height}: "
            "make one of their size, white where pixels are to be drawn"
        )
    unknown = grey > 127
    if not unknown.any():
        raise ConfigError(f"the mask {path} has no white pixel: nothing is to be drawn")
    return unknown
