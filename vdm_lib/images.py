"""Pictures of images: a grid of samples as PNG, an animation, and the curve of a run."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from vdm_lib.files.records import write_atomically

# What no grey image holds; colour images lie on white.
_GROUND_OF_GREY = (110, 160, 220)
_TRAINING = "training (with dropout)"


def grid(
    images: UInt8[np.ndarray, "n h w c"], num_levels: int, gap: int = 1, columns: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return grey or RGB images in a grid, levels stretched to 0..255, on a ground that differs.

    Without a number of columns the grid is nearly square.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    canvas = np.full(shape, _GROUND_OF_GREY if channels == 1 else 255, np.uint8)
    stretched = np.round(images.astype(np.float64) * (255.0 / (num_levels - 1))).astype(np.uint8)
    for i, image in enumerate(stretched):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def picture(
    images: UInt8[np.ndarray, "n h w c"], num_levels: int, columns: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return what there is to see of images: a grid, or of images of 1x1x2, which are points, the plane they lie in."""
    if images.shape[1:] == (1, 1, 2):
        return plane(images.reshape(-1, 2), num_levels)
    return grid(images, num_levels, columns=columns)


def plane(points: UInt8[np.ndarray, "n 2"], num_levels: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return points (x, y) as dots, x to the right and y upwards, one pixel a level; dots that meet are darker."""
    counts = np.zeros((num_levels + 2, num_levels + 2))
    for row in range(3):
        for column in range(3):
            np.add.at(counts, (num_levels - 1 - points[:, 1].astype(int) + row, points[:, 0].astype(int) + column), 1.0)
    shade = 255.0 * np.exp(-0.7 * counts[1:-1, 1:-1])
    return np.repeat(shade.astype(np.uint8)[..., None], 3, axis=-1)


def write_png(path: str | epath.Path, picture: UInt8[np.ndarray, "H W c"], *, min_width: int = 600) -> None:
    """Write a grey or RGB picture, enlarged by whole pixels to at least min_width."""
    enlarged = _enlarged(picture, min_width)
    buffer = io.BytesIO()
    Image.fromarray(enlarged[..., 0] if enlarged.shape[-1] == 1 else enlarged).save(buffer, "PNG")
    write_atomically(epath.Path(path), buffer.getvalue())


def write_gif(
    path: str | epath.Path,
    pictures: Sequence[UInt8[np.ndarray, "H W c"]],
    *,
    min_width: int = 400,
    seconds_each: float = 0.08,
    seconds_last: float = 2.0,
) -> None:
    """Write RGB pictures as an animation that repeats, each enlarged by whole pixels to at least min_width."""
    first, *others = (Image.fromarray(_enlarged(picture, min_width)) for picture in pictures)
    # Pillow wants milliseconds.
    durations = [round(1000 * seconds_each)] * len(others) + [round(1000 * seconds_last)]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    write_atomically(epath.Path(path), buffer.getvalue())


def _enlarged(picture: UInt8[np.ndarray, "H W c"], min_width: int) -> UInt8[np.ndarray, "h w c"]:
    factor = max(1, -(-min_width // picture.shape[1]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def write_loss_curve(
    path: str | epath.Path,
    steps: Sequence[int],
    bpd: Sequence[float],
    levels: dict[str, tuple[float, float]],
    *,
    title: str,
) -> None:
    """Write bpd against the step as PNG, with named horizontal lines and their standard errors as bands.

    A level is (bpd, standard error); an error of 0 draws no band.
    """
    figure, axes = _bpd_axes(title)
    axes.plot(steps, bpd, label=_TRAINING, color="tab:blue")
    for (name, (level, error)), color in zip(levels.items(), ("tab:green", "tab:gray", "tab:red"), strict=False):
        label = f"{name}: {level:.3f} ± {error:.3f}" if error else f"{name}: {level:.3f}"
        axes.axhline(level, label=label, color=color, linestyle="--")
        if error:
            axes.axhspan(level - error, level + error, color=color, alpha=0.3, linewidth=0)
    write_atomically(epath.Path(path), _png(figure, axes))


def eval_curve(
    training: tuple[Sequence[int], Sequence[float]], measured: Sequence[tuple[int, float, float]], *, title: str
) -> bytes:
    """Return a PNG of training bpd against the step, with measurements and their standard errors.

    Args:
      training: steps, and training bpd at them.
      measured: (step, bpd, standard error) of each measurement.
      title: above the picture.
    """
    figure, axes = _bpd_axes(title)
    if training[0]:
        axes.plot(*training, label=_TRAINING, color="tab:blue", alpha=0.6)
    steps, bpd, errors = zip(*measured, strict=True)
    axes.errorbar(steps, bpd, errors, label="measured", color="tab:green", marker="o", capsize=3)
    return _png(figure, axes)


def _bpd_axes(title: str) -> tuple[Any, Any]:
    """Return a figure and its axes for bits per dimension against the step."""
    # The object interface needs no display and leaves no figure open behind it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="step", ylabel="bits per dimension (log scale)")
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Any, axes: Any) -> bytes:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    # The first steps are far above everything that matters: a logarithm shows them and the end.
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(MaxNLocator(nbins=1))
    axes.set_xlim(0, None)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
