"""The loss of a denoiser that knows the levels, and nothing of their neighbours, as a control variate.

At little noise a network tells the levels of a channel apart, which no linear denoiser does. The one that sees each
channel alone, with the histogram h of the split as its prior, estimates

    (1)  x_hat(z) = sum over v of p(v | z) f(v),  p(v | z) ~ h(v) exp(-(z - f(v))^2 / 2u),  u = exp(gamma)

from z = x + sqrt(u) eps, and its error in the noise is eps - eps_hat = (x_hat - x) / sqrt(u). The square of that has
an expectation over eps for each level of x, a one-dimensional integral.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_lib.data import Split
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.noise import image_normals
from vdm_lib.types import Key, Labels, Levels, Params, PerImage

_LARGEST_NOISE = 7.0
_NODES = 71
_GAMMAS = 512
"""Rows of the table: the cubic between them is good to 1e-6."""


@dataclass(frozen=True)
class LevelControl:
    """The control variate of each image in nats, under the noise of `bound.DiffusionLoss`; its mean is zero."""

    model: VDM

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return the control variate; params are `level_params`, and the schedule under `model`."""
        num_levels, log_prior = self.model.data.num_levels, params["log_prior"]
        eps = image_normals(key, indices, self.model.data.image_shape).reshape(images.shape[0], -1)
        gamma, factor = self.model.gamma_and_factor(params["model"], times)
        expected = _between_rows(params["expected"], params["gammas"], gamma)

        def one_image(of_image: tuple[jax.Array, ...]) -> jax.Array:
            levels, noise, deviation, expected = of_image
            values = encode(jnp.arange(num_levels), num_levels) / deviation
            return jnp.sum(_squared_error(values[levels], noise, values, log_prior) - expected[levels])

        # One after the other: dimensions x levels of many images would fill the memory.
        levels = images.reshape(eps.shape).astype(jnp.int32)
        return factor * jax.lax.map(one_image, (levels, eps, jnp.exp(0.5 * gamma), expected))


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


def level_params(model: VDM, params: Params, split: Split) -> Params:
    """Return the logarithm of the histogram of all levels of a split, and the expectation of each level over gamma.

    No level is taken for impossible. The expectation is by the trapezoidal rule, which converges exponentially for a
    Gaussian times a smooth function.
    """
    num_levels = split.num_levels
    counts = np.bincount(split.images.reshape(-1), minlength=num_levels) + 1.0
    log_prior = jnp.asarray(np.log(counts / counts.sum()), jnp.float32)
    gammas = jnp.linspace(model.gamma(params, jnp.asarray(0.0)), model.gamma(params, jnp.asarray(1.0)), _GAMMAS)
    return {"log_prior": log_prior, "gammas": gammas, "expected": _expected(gammas, log_prior, num_levels)}


@partial(jax.jit, static_argnums=2)
def _expected(
    gammas: Float[Array, " rows"], log_prior: Float[Array, " levels"], num_levels: int
) -> Float[Array, "rows levels"]:
    nodes = jnp.linspace(-_LARGEST_NOISE, _LARGEST_NOISE, _NODES)
    weights = jax.nn.softmax(-0.5 * jnp.square(nodes))

    def one_level_of_noise(gamma: Float[Array, ""]) -> Float[Array, " levels"]:
        values = encode(jnp.arange(num_levels), num_levels) * jnp.exp(-0.5 * gamma)
        return jnp.sum(_squared_error(values[:, None], nodes, values, log_prior) * weights, axis=1)

    return jax.lax.map(one_level_of_noise, gammas)


def _between_rows(
    table: Float[Array, "rows levels"], gammas: Float[Array, " rows"], gamma: Float[Array, " b"]
) -> Float[Array, "b levels"]:
    """Return rows of a table over equally spaced gammas at other ones, by the cubic through four neighbours."""
    place = (gamma - gammas[0]) / (gammas[-1] - gammas[0]) * (len(gammas) - 1)
    first = jnp.clip(jnp.floor(place).astype(jnp.int32) - 1, 0, len(gammas) - 4)
    s = (place - first)[:, None]
    cubics = (
        (s - 1) * (s - 2) * (s - 3) / -6,
        s * (s - 2) * (s - 3) / 2,
        s * (s - 1) * (s - 3) / -2,
        s * (s - 1) * (s - 2) / 6,
    )
    return sum((cubic * table[first + k] for k, cubic in enumerate(cubics)), jnp.zeros(()))
