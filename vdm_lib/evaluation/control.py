"""Control variates for the diffusion loss: losses of simple denoisers, which follow the network's and are known.

A control C_j(t, x, eps) is taken off times beta_j(t), and what that takes off an image on average is put back:

    (1)  L(t, x, eps) - sum over j of beta_j(t) C_j(t, x, eps),   (2)  + sum over j of integral of beta_j E C_j dt

with the expectation over eps. The mean is that of L for any beta, and the variance less for the right one. (2) is 0
for controls that the noise makes, and known for the one that the image makes (`linear_control`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Float, Shaped

from vdm_lib.config import ControlVariate
from vdm_lib.evaluation.level_control import LevelControl, level_params
from vdm_lib.evaluation.linear_control import (
    ImageControl,
    ImageControlOverTime,
    LinearControl,
    linear_params,
    weights_over_time,
)
from vdm_lib.evaluation.passes import Estimate, Runner
from vdm_lib.evaluation.time_density import about_line, bins, smoothed
from vdm_lib.model import VDM
from vdm_lib.types import Key

_LEAST_GAIN = 1.05
"""Predicted gain below which there is no control: a pilot sees small gains where there are none."""
_LEAST_EIGENVALUE = 1e-4
"""Relative to the largest one of the controls' moments: below it two of them are the same."""


@dataclass(frozen=True)
class Coefficient:
    """beta(t) of one control, linear between equally spaced knots."""

    knots: tuple[float, ...]

    def at(self, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return beta at times, float64."""
        return np.interp(np.asarray(times, np.float64), np.linspace(0.0, 1.0, len(self.knots)), self.knots)


Coefficients = tuple[Coefficient, ...]
"""One for each control; none at all where there is to be no control."""


@dataclass(frozen=True, eq=False)
class Control:
    """One control variate of the images of a split."""

    estimate: Estimate
    runner: Runner
    """The images, and what the estimate takes as parameters."""
    over_time: ImageControlOverTime | None = None
    """Its mean where that is not zero."""

    def __call__(
        self, times: Float[np.ndarray, " n"], key: Key, indices: Shaped[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """Return the control variate of every image, or of those at `indices`, under the noise of `key`: nats."""
        return self.runner(self.estimate, times, key, indices)

    def put_back(self, coefficient: Coefficient) -> Float[np.ndarray, " n"]:
        """Return what is taken off every image on average, (2): nats."""
        num_images = len(self.runner.split.images)
        if self.over_time is None:
            return np.zeros(num_images)
        params = self.runner.params
        weights = weights_over_time(self.over_time.model, params, coefficient.at)
        whole = replace(self.runner, params={**params, "weights": weights})
        return whole(self.over_time, np.zeros(num_images, np.float32), jax.random.key(0))


def make_controls(model: VDM, runner: Runner, control_variate: ControlVariate) -> tuple[Control, ...]:
    """Return the controls that a config asks for."""
    if control_variate == "none":
        return ()
    schedule = {name: leaf for name, leaf in runner.params.items() if name == "gamma"}
    linear = replace(runner, params={"model": schedule, **linear_params(model, runner.split)})
    controls = [Control(LinearControl(model), linear)]
    if "basis" in linear.params:
        controls.append(Control(ImageControl(model), linear, ImageControlOverTime(model)))
    if control_variate == "linear_and_levels":
        levels = {"model": schedule, **level_params(model, schedule, runner.split)}
        controls.append(Control(LevelControl(model), replace(runner, params=levels)))
    return tuple(controls)


def without_controls(
    losses: Float[np.ndarray, " n"],
    controls: Sequence[Float[np.ndarray, " n"]],
    coefficients: Coefficients,
    times: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Return (1); without coefficients nothing is taken off."""
    for coefficient, control in zip(coefficients, controls, strict=False):
        losses = losses - coefficient.at(times) * control
    return losses


def fit_coefficients(
    times: Float[np.ndarray, " m"], losses: Shaped[np.ndarray, " m"], controls: Sequence[Shaped[np.ndarray, " m"]]
) -> Coefficients:
    """Return beta from the draws of a pilot: the regression of losses on controls in bins of time.

    Where it promises little, and for few draws, there is no control.
    """
    groups = bins(times)
    if len(groups) < 2 or not len(controls):
        return ()
    table = np.stack([losses, *controls], axis=1)
    rests = [about_line(times[group], table[group]) for group in groups]
    moments = smoothed(np.stack([rest.T @ rest / len(rest) for rest in rests]))
    slopes = [np.linalg.lstsq(each[1:, 1:], each[1:, 0], rcond=_LEAST_EIGENVALUE)[0] for each in moments]
    centres = [float(times[group].mean()) for group in groups]
    grid = np.linspace(0.0, 1.0, len(groups) + 1)
    found = tuple(Coefficient(tuple(np.interp(grid, centres, row).tolist())) for row in np.stack(slopes, axis=1))
    # The square roots are what counts once the density follows the deviation.
    before = sum(float(np.std(rest[:, 0])) for rest in rests)
    after = sum(
        float(np.std(without_controls(rest[:, 0], list(rest[:, 1:].T), found, times[group])))
        for group, rest in zip(groups, rests, strict=True)
    )
    return found if before > _LEAST_GAIN * after else ()
