"""A strip: rows of images with the columns named, as PNG."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8

from vdm_lib.files.records import write_atomically
from vdm_lib.images import grid

_INCHES_PER_IMAGE = 0.8
# Whole pixels of the figure for one of an image blur nothing; so many dots suffice for large images too.
_DOTS_PER_INCH = 120


def write_strip(
    out: str,
    rows: UInt8[np.ndarray, "r k h w c"],
    num_levels: int,
    *,
    columns: Sequence[str],
    title: str,
    below: str,
    names: Sequence[str] = (),
) -> None:
    """Write r rows of k images.

    Args:
      out: PNG to write; directories are made.
      rows: levels of the images.
      num_levels: of one channel of one pixel.
      columns: what stands below each column; may have several lines.
      title: above the picture.
      below: what the columns are.
      names: what stands beside each row, if anything.
    """
    from matplotlib.figure import Figure

    count, across, height, width, _ = rows.shape
    flat = rows.reshape(-1, *rows.shape[2:])
    canvas = grid(flat, num_levels, columns=across)
    # Never narrower than a title.
    size = (max(across, 7) * _INCHES_PER_IMAGE, count * _INCHES_PER_IMAGE * height / width + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([0.5 + width / 2 + k * (width + 1) for k in range(across)], columns, fontsize=7)
    axes.set_yticks([0.5 + height / 2 + k * (height + 1) for k in range(len(names))], names, fontsize=7)
    axes.set_xlabel(below, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    epath.Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(epath.Path(out), buffer.getvalue())
