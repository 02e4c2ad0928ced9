"""The loss of a denoiser that knows the levels, and nothing of their neighbours, as a control variate.

At little noise a network tells the levels of a channel apart, which no linear denoiser does. The one that sees each
channel alone, with the histogram h of the split as its prior, estimates

    (1)  x_hat(z) = sum over v of p(v | z) f(v),  p(v | z) ~ h(v) exp(-(z - f(v))^2 / 2u),  u = exp(gamma)

from z = x + sqrt(u) eps, and its error in the noise is eps - eps_hat = (x_hat - x) / sqrt(u). The square of that has
an expectation over eps for each level of x, a one-dimensional integral.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_lib.data import Split
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.passes import image_normals
from vdm_lib.types import Key, Levels, Params, PerImage

_LARGEST_NOISE = 7.0
_NODES = 71


@dataclass(frozen=True)
class LevelControl:
    """The control variate of each image in nats, under the noise of `bound.DiffusionLoss`; its mean is zero."""

    model: VDM

    def __call__(self, params: Params, images: Levels, indices: jax.Array, times: PerImage, key: Key) -> PerImage:
        """Return the control variate; params are `level_params`, and the schedule under `model`."""
        num_levels, log_prior = self.model.data.num_levels, params["log_prior"]
        eps = image_normals(key, indices, self.model.data.image_shape).reshape(images.shape[0], -1)
        gamma, factor = self.model.gamma_and_factor(params["model"], times)
        nodes = jnp.linspace(-_LARGEST_NOISE, _LARGEST_NOISE, _NODES)
        # The trapezoidal rule, which converges exponentially for a Gaussian times a smooth function.
        weights = jax.nn.softmax(-0.5 * jnp.square(nodes))

        def one_image(of_image: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            levels, noise, deviation = of_image
            values = encode(jnp.arange(num_levels), num_levels) / deviation
            expected = _squared_error(values[:, None], nodes, values, log_prior) @ weights
            return jnp.sum(_squared_error(values[levels], noise, values, log_prior) - expected[levels])

        # One after the other: a table of levels x nodes x levels for each of many images would fill the memory.
        levels = images.reshape(eps.shape).astype(jnp.int32)
        return factor * jax.lax.map(one_image, (levels, eps, jnp.exp(0.5 * gamma)))


def _squared_error(
    x: Float[Array, "*#n"],
    eps: Float[Array, "*#n"],
    values: Float[Array, " levels"],
    log_prior: Float[Array, " levels"],
) -> Float[Array, "*n"]:
    """Return the squared error of (1) in the noise; x and the values of the levels in units of sqrt(u)."""
    apart = values - x[..., None]
    logits = log_prior - 0.5 * jnp.square(eps[..., None] - apart)
    return jnp.square(jnp.sum(jax.nn.softmax(logits) * apart, axis=-1))


def level_params(split: Split) -> Params:
    """Return the logarithm of the histogram of all levels of a split; none of them is taken for impossible."""
    counts = np.bincount(split.images.reshape(-1), minlength=split.num_levels) + 1.0
    return {"log_prior": jnp.asarray(np.log(counts / counts.sum()), jnp.float32)}
