"""A control variate for the diffusion loss: the loss of a denoiser whose expectation is known.

The best linear denoiser of images of mean m and covariance C has, in the eigenbasis of C with variances lambda,

    (1)  eps - eps_lin = a eps - b (x - m),  a = lambda / (lambda + u),  b = sqrt(u) / (lambda + u),  u = exp(gamma)

whose squared length has the expectation sum of a^2 + b^2 (x - m)^2 over eps, given the image. Their difference has
mean zero for every image and time, and follows the network's own loss, for both grow with the same noise. So

    (2)  L(t, x, eps) - beta(t) f(t) (|eps - eps_lin|^2 - E |eps - eps_lin|^2)

with f(t) the factor of the diffusion loss has the mean of L for any beta(t), and less variance for the right one.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from vdm_lib.closed_forms import encoded_levels
from vdm_lib.config import ControlVariate
from vdm_lib.data import Split
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.passes import image_normals
from vdm_lib.time_density import about_line, bins, smoothed
from vdm_lib.types import Key, Levels, Params, PerImage

_LEAST_GAIN = 1.05
"""Predicted gain below which there is no control: a pilot sees small gains where there are none."""
_MOST_DIMS = 4096
"""Above it the eigenbasis takes too long: the denoiser then is the identity, and only |eps|^2 is left."""


@dataclass(frozen=True)
class Coefficient:
    """beta(t), linear between equally spaced knots; without knots it is 0 and there is no control."""

    knots: tuple[float, ...] = ()

    def at(self, times: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Return beta at times, float64."""
        if not self.knots:
            return np.zeros(times.shape)
        return np.interp(np.asarray(times, np.float64), np.linspace(0.0, 1.0, len(self.knots)), self.knots)


def fit_coefficient(
    times: Float[np.ndarray, " m"], losses: Shaped[np.ndarray, " m"], controls: Shaped[np.ndarray, " m"]
) -> Coefficient:
    """Return beta from the draws of a pilot: the regression of losses on controls in bins of time.

    Where it promises little, and for few draws, there is no control.
    """
    groups = bins(times)
    if len(groups) < 2:
        return Coefficient()
    rests = [(about_line(times[group], losses[group]), about_line(times[group], controls[group])) for group in groups]
    both = smoothed([float(np.mean(loss * control)) for loss, control in rests])
    control_alone = smoothed([float(np.mean(control**2)) for _, control in rests])
    centres = [float(times[group].mean()) for group in groups]
    grid = np.linspace(0.0, 1.0, len(groups) + 1)
    found = Coefficient(tuple(np.interp(grid, centres, both / np.maximum(control_alone, 1e-30)).tolist()))
    # The square roots are what counts once the density follows the deviation.
    before = sum(float(np.std(loss)) for loss, _ in rests)
    after = sum(
        float(np.std(loss - found.at(times[group]) * control))
        for group, (loss, control) in zip(groups, rests, strict=True)
    )
    return found if before > _LEAST_GAIN * after else Coefficient()


@dataclass(frozen=True)
class LinearControl:
    """The control variate of each image in nats, under the noise of `bound.DiffusionLoss`; its mean is zero."""

    model: VDM

    def __call__(self, params: Params, images: Levels, indices: jax.Array, times: PerImage, key: Key) -> PerImage:
        """Return the control variate; params are those of `control_params`."""
        shape = self.model.data.image_shape
        eps = image_normals(key, indices, shape).reshape(images.shape[0], -1)
        gamma, factor = self.model.gamma_and_factor(params["model"], times)
        if "basis" not in params:
            return factor * (jnp.sum(jnp.square(eps), axis=1) - eps.shape[1])
        centred = encode(images, self.model.data.num_levels).reshape(eps.shape) - params["mean"]
        u = jnp.exp(gamma)[:, None]
        a = params["variances"] / (params["variances"] + u)
        b = jnp.sqrt(u) / (params["variances"] + u)
        noise, signal = a * (eps @ params["basis"]), b * (centred @ params["basis"])
        # The squares of signal cancel: (noise - signal)^2 - a^2 - signal^2.
        return factor * jnp.sum(noise * (noise - 2.0 * signal) - jnp.square(a), axis=1)


def control_params(model: VDM, params: Params, split: Split, control_variate: ControlVariate) -> Params:
    """Return what `LinearControl` takes: the schedule, and mean and covariance of the images of a split.

    Without a control variate, and above 4,096 dimensions, there is no covariance.
    """
    schedule = {name: leaf for name, leaf in params.items() if name == "gamma"}
    num_dims = model.data.num_dims
    if control_variate == "none" or num_dims > _MOST_DIMS:
        return {"model": schedule}
    x = encoded_levels(split.num_levels).astype(np.float32)[split.images.reshape(len(split.images), -1)]
    mean = x.mean(axis=0)
    variances, basis = np.linalg.eigh(_covariance(x - mean))
    # Levels are as wide as their bins.
    floor = (2.0 / split.num_levels) ** 2 / 12.0
    return {
        "model": schedule,
        "mean": jnp.asarray(mean),
        "basis": jnp.asarray(basis, jnp.float32),
        "variances": jnp.asarray(np.maximum(variances, floor), jnp.float32),
    }


def _covariance(centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    return centred.T @ centred / len(centred)
