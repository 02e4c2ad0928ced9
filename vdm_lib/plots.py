"""Figures of what a model has learned: its noise schedule, its loss against log SNR, and fields in the plane.

The functions that end in `_figure` return a matplotlib figure, the others draw one thing into given axes. No jax.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vdm_lib.errors import ConfigError
from vdm_lib.report import NoiseLevel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REACH = 1.5
_ARROWS_PER_WIDTH = 28.0


class Field(NamedTuple):
    """The score at n places of the plane, of the data as they are at one time."""

    t: float
    log_snr: float
    places: Float[np.ndarray, "n 2"]
    score: Float[np.ndarray, "n 2"]


def draw_schedule(axes: "Axes", times: Float[np.ndarray, " n"], log_snr: Float[np.ndarray, " n"], **style: Any) -> None:
    """Draw log SNR against time; style is what matplotlib's `plot` takes."""
    axes.plot(times, log_snr, **style)
    axes.set(xlabel="time t", ylabel="log SNR", xlim=(0, 1))


def draw_noise_levels(
    axes: "Axes", levels: Sequence[NoiseLevel], *, color: str | None = None, label: str | None = None
) -> None:
    """Draw the diffusion loss against log SNR, with two standard errors: bits per dimension per unit of log SNR.

    Raises:
      ConfigError: no levels, of an evaluation that measured none.
    """
    if not levels:
        raise ConfigError("there are no noise levels to draw: the evaluation measured none")
    edges = -np.array([levels[0].gamma_from, *(level.gamma_to for level in levels)])
    widths = np.abs(np.diff(edges))
    density = np.array([level.bpd for level in levels]) / widths
    error = np.array([level.bpd_stderr for level in levels]) / widths
    # Without a baseline the outermost edges fall to 0, which the loss does not.
    steps = axes.stairs(density, edges, baseline=None, color=color, label=label)
    middle = (edges[:-1] + edges[1:]) / 2
    axes.errorbar(middle, density, 2 * error, fmt="none", color=steps.get_edgecolor(), linewidth=1)
    axes.set(xlabel="log SNR", ylabel="bits/dim per unit of log SNR")


def draw_field(axes: "Axes", field: Field, noisy: Float[np.ndarray, "m 2"] | None = None) -> None:
    """Draw a field as arrows of one length, their colour the length of sigma times the score, over noisy data in grey.

    That product is what the network estimates: it has the length of noise at every time.
    """
    if noisy is not None:
        axes.scatter(noisy[:, 0], noisy[:, 1], s=1, alpha=0.15, color="grey")
    length = np.linalg.norm(field.score, axis=1)
    unit = field.score / np.maximum(length, 1e-12)[:, np.newaxis]
    # sigma^2 = sigmoid(-log SNR).
    of_noise = length / np.sqrt(1.0 + np.exp(field.log_snr))
    axes.quiver(*field.places.T, *unit.T, of_noise, cmap="viridis", scale=_ARROWS_PER_WIDTH)
    axes.set(
        title=f"t = {field.t:g}, log SNR = {field.log_snr:.1f}", aspect="equal", xlim=(-_REACH, _REACH),
        ylim=(-_REACH, _REACH),
    )  # fmt: skip


def schedule_figure(times: Float[np.ndarray, " n"], log_snr: Float[np.ndarray, " n"]) -> "Figure":
    """Return log SNR against time, as `fields.schedule` gives them."""
    figure, (axes,) = _panels(1)
    draw_schedule(axes, times, log_snr)
    return figure


def noise_levels_figure(levels: Sequence[NoiseLevel]) -> "Figure":
    """Return the diffusion loss against log SNR of `BpdReport.noise_levels`.

    Raises:
      ConfigError: no levels, of an evaluation that measured none.
    """
    figure, (axes,) = _panels(1)
    draw_noise_levels(axes, levels)
    return figure


def fields_figure(fields: Sequence[Field], noisy: Sequence[Float[np.ndarray, "m 2"]] | None = None) -> "Figure":
    """Return fields beside each other, each over the noisy data of its time, if they are given.

    Raises:
      ConfigError: no fields, or not as many sets of noisy data.
    """
    if not fields or (noisy is not None and len(noisy) != len(fields)):
        raise ConfigError(f"{len(fields)} fields cannot be drawn over {len(noisy or ())} sets of data")
    figure, panels = _panels(len(fields))
    for k, (axes, field) in enumerate(zip(panels, fields, strict=True)):
        draw_field(axes, field, None if noisy is None else noisy[k])
    return figure


def _panels(count: int) -> tuple["Figure", Sequence["Axes"]]:
    # The object interface needs no display and leaves no figure open behind it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.5) if count == 1 else (4.0 * count, 4.2), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])
