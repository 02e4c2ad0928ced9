"""What general formats need for the same images: PNG, WebP and JPEG XL without loss, as their libraries write them."""

import io
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_lib.errors import MachineError

_FORMATS = {
    "PNG": {"format": "PNG", "optimize": True, "compress_level": 9},
    "WebP lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6, "exact": True},
    "JPEG XL lossless": {"format": "JXL", "lossless": True, "effort": 9},
}


def rates(images: UInt8[np.ndarray, "n h w c"]) -> dict[str, float]:
    """Return bits per dimension of each format, every image alone and all of them side by side in one picture.

    One picture pays for headers once, as a file of `vdm compress` does. No image of other than 1 or 3 channels has a
    rate.

    Raises:
      MachineError: no plugin for JPEG XL, or one that does not give the pixels back.
    """
    if images.shape[-1] not in (1, 3):
        return {}
    try:
        import pillow_jxl  # noqa: F401 (registers the format)
    except ImportError:
        raise MachineError("JPEG XL needs pillow-jxl-plugin: pip install '.[codec]'") from None
    sheet = _sheet(images)
    found: dict[str, float] = {}
    for name, options in _FORMATS.items():
        alone = sum(_size(image, name, options) for image in images)
        found[f"{name}, each image alone"] = 8.0 * alone / images.size
        found[f"{name}, all in one picture"] = 8.0 * _size(sheet, name, options) / images.size
    return found


def _sheet(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "H W c"]:
    """Return all images in a near square; cells that are left over are black."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def _size(image: UInt8[np.ndarray, "h w c"], name: str, options: dict[str, object]) -> int:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    content = io.BytesIO()
    picture.save(content, **options)
    with Image.open(io.BytesIO(content.getvalue())) as again:
        if not np.array_equal(np.asarray(again.convert(picture.mode)), np.asarray(picture)):
            raise MachineError(f"{name} does not give the pixels back")
    return len(content.getvalue())
