"""The loss of the best linear denoiser as two control variates: what the noise does to it, and what the image does.

The best linear denoiser of images of mean m and covariance C has, in the eigenbasis of C with variances lambda,

    (1)  eps - eps_lin = a eps - b y,  a = lambda / (lambda + u),  b = sqrt(u) / (lambda + u)

with y = x - m and u = exp(gamma), whose squared length has the expectation sum of a^2 + b^2 y^2 over eps, given the
image. So, with f(t) the factor of the diffusion loss and sums over the dimensions,

    (2)  f(t) sum of (a eps - b y)^2 - a^2 - b^2 y^2   has the mean 0 over eps, for every image and time,
    (3)  f(t) sum of b^2 (y^2 - lambda)                is the image's own part, whose integral over time is known;
         for lambda the mean of y^2 its mean over the images is 0 at every time.

Images of much detail lose more where detail is lost, and (3) says how much and where.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_lib.data import Split
from vdm_lib.evaluation.closed_forms import encoded_levels
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.noise import image_normals
from vdm_lib.types import Key, Labels, Levels, Params, PerImage

_MOST_DIMS = 4096
"""Above it the eigenbasis takes too long: the denoiser then is the identity, and only |eps|^2 is left."""
_TIMES = 4096
"""Points of the integral over time."""


@dataclass(frozen=True)
class LinearControl:
    """Control variate (2) of each image in nats, under the noise of `bound.DiffusionLoss`; its mean is zero."""

    model: VDM

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return the control variate; params are `linear_params`, and the schedule under `model`."""
        shape = self.model.data.image_shape
        eps = image_normals(key, indices, shape).reshape(images.shape[0], -1)
        gamma, factor = self.model.gamma_and_factor(params["model"], times)
        if "basis" not in params:
            return factor * (jnp.sum(jnp.square(eps), axis=1) - eps.shape[1])
        u = jnp.exp(gamma)[:, None]
        a, b = params["variances"] / (params["variances"] + u), _weight_of_signal(params["variances"], u)
        noise, signal = a * (eps @ params["basis"]), b * _signal(params, images, self.model.data.num_levels)
        # The squares of signal cancel: (noise - signal)^2 - a^2 - signal^2.
        return factor * jnp.sum(noise * (noise - 2.0 * signal) - jnp.square(a), axis=1)


@dataclass(frozen=True)
class ImageControl:
    """Control variate (3) of each image in nats; it draws no noise."""

    model: VDM

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return the control variate; params are `linear_params` with a basis, and the schedule under `model`."""
        gamma, factor = self.model.gamma_and_factor(params["model"], times)
        weights = factor[:, None] * jnp.square(_weight_of_signal(params["variances"], jnp.exp(gamma)[:, None]))
        return _own_part(params, images, self.model.data.num_levels, weights)


@dataclass(frozen=True)
class ImageControlOverTime:
    """The integral over time of beta(t) times control variate (3) of each image, in nats."""

    model: VDM

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return the integral; params have the `weights` of `weights_over_time` as well."""
        return _own_part(params, images, self.model.data.num_levels, params["weights"])


def weights_over_time(
    model: VDM, params: Params, coefficient: Callable[[np.ndarray], np.ndarray]
) -> Float[jax.Array, " d"]:
    """Return the integral over time of beta(t) f(t) b^2 for each dimension of the basis.

    By the midpoint rule on a grid that the steps of a chain of up to 4,096 divide evenly.
    """
    timesteps = model.model.timesteps
    size = timesteps * -(-_TIMES // timesteps) if 0 < timesteps <= _TIMES else _TIMES
    times = ((np.arange(size) + 0.5) / size).astype(np.float32)
    found = model.gamma_and_factor(params["model"], jnp.asarray(times))
    gamma, factor = (np.asarray(each, np.float64) for each in found)
    variances = np.asarray(params["variances"], np.float64)
    total = np.zeros(len(variances))
    for u, weight in zip(np.exp(gamma), coefficient(times) * factor, strict=True):
        total += weight * u / np.square(variances + u)
    return jnp.asarray(total / size, jnp.float32)


def _weight_of_signal(variances: jax.Array, u: jax.Array) -> jax.Array:
    return jnp.sqrt(u) / (variances + u)


def _signal(params: Params, images: Levels, num_levels: int) -> Float[jax.Array, "b d"]:
    return (encode(images, num_levels).reshape(images.shape[0], -1) - params["mean"]) @ params["basis"]


def _own_part(params: Params, images: Levels, num_levels: int, weights: Float[jax.Array, "*b d"]) -> PerImage:
    return jnp.sum(weights * (jnp.square(_signal(params, images, num_levels)) - params["mean_squares"]), axis=1)


def linear_params(model: VDM, split: Split) -> Params:
    """Return mean and covariance of the images of a split; above 4,096 dimensions nothing."""
    if model.data.num_dims > _MOST_DIMS:
        return {}
    x = encoded_levels(split.num_levels).astype(np.float32)[split.images.reshape(len(split.images), -1)]
    mean = x.mean(axis=0)
    variances, basis = np.linalg.eigh(_covariance(x - mean))
    # Levels are as wide as their bins.
    floor = (2.0 / split.num_levels) ** 2 / 12.0
    return {
        "mean": jnp.asarray(mean),
        "basis": jnp.asarray(basis, jnp.float32),
        "mean_squares": jnp.asarray(variances, jnp.float32),
        "variances": jnp.asarray(np.maximum(variances, floor), jnp.float32),
    }


def _covariance(centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    return centred.T @ centred / len(centred)
