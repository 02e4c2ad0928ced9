"""Control variates for the diffusion loss: losses of simple denoisers whose expectations are known.

C(t, x, eps) is f(t) (|eps - eps_simple|^2 - E |eps - eps_simple|^2), with f(t) the factor of the diffusion loss and
the expectation over eps, given the image. It has mean zero for every image and time, and follows the network's own
loss, for both grow with the same noise. So

    (1)  L(t, x, eps) - sum over j of beta_j(t) C_j(t, x, eps)

has the mean of L for any beta(t), and less variance for the right one.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped

from vdm_lib.config import ControlVariate
from vdm_lib.level_control import LevelControl, level_params
from vdm_lib.linear_control import LinearControl, linear_params
from vdm_lib.model import VDM
from vdm_lib.passes import Estimate, Runner
from vdm_lib.time_density import about_line, bins, smoothed
from vdm_lib.types import Key

_LEAST_GAIN = 1.05
"""Predicted gain below which there is no control: a pilot sees small gains where there are none."""
_LEAST_EIGENVALUE = 1e-4
"""Relative to the largest one of the controls' moments: below it two of them are the same."""


@dataclass(frozen=True)
class Coefficients:
    """beta_j(t), linear between equally spaced knots; without knots they are 0 and there is no control."""

    knots: tuple[tuple[float, ...], ...] = ()
    """One row for each control."""

    def of_control(self, index: int) -> tuple[float, ...]:
        """Return the row of one control, empty if there is none."""
        return self.knots[index] if index < len(self.knots) else ()

    def at(self, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, "controls n"]:
        """Return each beta at times, float64."""
        t = np.asarray(times, np.float64)
        rows = [np.interp(t, np.linspace(0.0, 1.0, len(row)), row) for row in self.knots]
        return np.stack(rows) if rows else np.zeros((0, len(t)))


@dataclass(frozen=True, eq=False)
class Control:
    """One control variate of the images of a split."""

    estimate: Estimate
    runner: Runner
    """The images, and what the estimate takes as parameters."""

    def __call__(
        self, times: Float[np.ndarray, " n"], key: Key, indices: Shaped[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """Return the control variate of every image, or of those at `indices`, under the noise of `key`: nats."""
        return self.runner(self.estimate, times, key, indices)


def make_controls(model: VDM, runner: Runner, control_variate: ControlVariate) -> tuple[Control, ...]:
    """Return the controls that a config asks for."""
    if control_variate == "none":
        return ()
    schedule = {name: leaf for name, leaf in runner.params.items() if name == "gamma"}
    linear = {"model": schedule, **linear_params(model, runner.split)}
    controls = [Control(LinearControl(model), replace(runner, params=linear))]
    if control_variate == "linear_and_levels":
        levels = {"model": schedule, **level_params(runner.split)}
        controls.append(Control(LevelControl(model), replace(runner, params=levels)))
    return tuple(controls)


def without_controls(
    losses: Float[np.ndarray, " n"],
    controls: Float[np.ndarray, "controls n"],
    coefficients: Coefficients,
    times: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Return Eq. (1)."""
    return losses - np.sum(coefficients.at(times) * controls, axis=0) if coefficients.knots else losses


def fit_coefficients(
    times: Float[np.ndarray, " m"], losses: Shaped[np.ndarray, " m"], controls: Shaped[np.ndarray, "controls m"]
) -> Coefficients:
    """Return beta from the draws of a pilot: the regression of losses on controls in bins of time.

    Where it promises little, and for few draws, there is no control.
    """
    groups = bins(times)
    if len(groups) < 2 or not len(controls):
        return Coefficients()
    table = np.stack([losses, *controls], axis=1)
    rests = [about_line(times[group], table[group]) for group in groups]
    moments = smoothed(np.stack([rest.T @ rest / len(rest) for rest in rests]))
    slopes = [np.linalg.lstsq(each[1:, 1:], each[1:, 0], rcond=_LEAST_EIGENVALUE)[0] for each in moments]
    centres = [float(times[group].mean()) for group in groups]
    grid = np.linspace(0.0, 1.0, len(groups) + 1)
    found = Coefficients(tuple(tuple(np.interp(grid, centres, row).tolist()) for row in np.stack(slopes, axis=1)))
    # The square roots are what counts once the density follows the deviation.
    before = sum(float(np.std(rest[:, 0])) for rest in rests)
    after = sum(
        float(np.std(without_controls(rest[:, 0], rest[:, 1:].T, found, times[group])))
        for group, rest in zip(groups, rests, strict=True)
    )
    return found if before > _LEAST_GAIN * after else Coefficients()
