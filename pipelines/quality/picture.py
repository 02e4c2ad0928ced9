"""The picture of sample quality: samples above what they are nearest to, and how near beside real images."""

import io

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from vdm_lib.files.records import write_atomically
from vdm_lib.images import grid


def write_picture(
    out: str,
    samples: UInt8[np.ndarray, "k h w c"],
    neighbours: UInt8[np.ndarray, "k h w c"],
    num_levels: int,
    distances: dict[str, Float[np.ndarray, " n"]],
) -> None:
    """Write PNG: the samples that are nearest to train images with these below them, and histograms of distances.

    Args:
      out: file; directories are made.
      samples: the nearest first.
      neighbours: the train image nearest to each.
      num_levels: of one channel of one pixel.
      distances: to the nearest train image, by what of.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, 1.4))
    above.imshow(grid(np.concatenate([samples, neighbours]), num_levels, columns=len(samples)), interpolation="nearest")
    above.set_title("the samples nearest to a train image, and below them that image", fontsize=9)
    above.axis("off")
    largest = max(float(each.max()) for each in distances.values())
    bins = np.linspace(0.0, largest if largest > 0 else 1.0, 41)
    for (name, values), color in zip(distances.items(), ("tab:blue", "tab:green"), strict=False):
        below.hist(values, bins=bins, density=True, histtype="step", label=name, color=color)
        below.axvline(float(np.median(values)), color=color, linestyle="--", linewidth=1)
    below.set(xlabel="RMS distance to the nearest train image, in levels (dashed: median)", ylabel="density")
    below.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    epath.Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(epath.Path(out), buffer.getvalue())
