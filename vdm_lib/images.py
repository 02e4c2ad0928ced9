"""Pictures of images: a grid of samples as PNG, and the curve of a run."""

import io
import math
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from vdm_lib.records import write_atomically


def grid(images: UInt8[np.ndarray, "n h w c"], num_levels: int, gap: int = 1) -> UInt8[np.ndarray, "H W c"]:
    """Return the images in a nearly square grid on a grey ground, levels stretched to 0..255."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    canvas = np.full(shape, 96, np.uint8)
    stretched = np.round(images.astype(np.float64) * (255.0 / (num_levels - 1))).astype(np.uint8)
    for i, image in enumerate(stretched):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def write_png(path: str | epath.Path, picture: UInt8[np.ndarray, "H W c"], *, min_width: int = 600) -> None:
    """Write a grey or RGB picture, enlarged by whole pixels to at least min_width."""
    factor = max(1, -(-min_width // picture.shape[1]))
    enlarged = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(enlarged[..., 0] if enlarged.shape[-1] == 1 else enlarged).save(buffer, "PNG")
    write_atomically(epath.Path(path), buffer.getvalue())


def write_loss_curve(
    path: str | epath.Path, steps: Sequence[int], bpd: Sequence[float], levels: dict[str, float]
) -> None:
    """Write bpd against the step as PNG, with named horizontal lines such as the test bpd."""
    # The object interface needs no display and leaves no figure open behind it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, bpd, label="training (with dropout)", color="tab:blue")
    for (name, level), color in zip(levels.items(), ("tab:green", "tab:gray", "tab:red"), strict=False):
        axes.axhline(level, label=f"{name}: {level:.3f}", color=color, linestyle="--")
    low = min([*bpd, *levels.values()])
    # The first steps are far above everything that matters.
    axes.set_ylim(low - 0.1, max(low + 2.0, *levels.values()) if levels else low + 2.0)
    axes.set(xlabel="step", ylabel="bits per dimension")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(epath.Path(path), buffer.getvalue())
