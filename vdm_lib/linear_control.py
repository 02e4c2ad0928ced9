"""The loss of the best linear denoiser as a control variate.

The best linear denoiser of images of mean m and covariance C has, in the eigenbasis of C with variances lambda,

    (1)  eps - eps_lin = a eps - b (x - m),  a = lambda / (lambda + u),  b = sqrt(u) / (lambda + u),  u = exp(gamma)

whose squared length has the expectation sum of a^2 + b^2 (x - m)^2 over eps, given the image.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_lib.closed_forms import encoded_levels
from vdm_lib.data import Split
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.passes import image_normals
from vdm_lib.types import Key, Levels, Params, PerImage

_MOST_DIMS = 4096
"""Above it the eigenbasis takes too long: the denoiser then is the identity, and only |eps|^2 is left."""


@dataclass(frozen=True)
class LinearControl:
    """The control variate of each image in nats, under the noise of `bound.DiffusionLoss`; its mean is zero."""

    model: VDM

    def __call__(self, params: Params, images: Levels, indices: jax.Array, times: PerImage, key: Key) -> PerImage:
        """Return the control variate; params are `linear_params`, and the schedule under `model`."""
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
        "variances": jnp.asarray(np.maximum(variances, floor), jnp.float32),
    }


def _covariance(centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    return centred.T @ centred / len(centred)
