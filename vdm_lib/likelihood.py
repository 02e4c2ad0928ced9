"""The discretised likelihood p(x | z_0) and the units it is given in.

A channel of a pixel has one of L levels, x in {0, ..., L-1}; encoded it is the middle of its bin in [-1, 1]:

    (1)  f(x) = 2 (x + 1/2) / L - 1
    (2)  p(x | z_0) = softmax over levels v of -1/2 (z_0/alpha_0 - f(v))^2 / SNR(0)^-1, with SNR(0)^-1 = exp(gamma_0)

(App. B of arXiv 2107.00630.) The dimensions are independent given z_0.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

from vdm_lib.types import Latents, Levels, PerImage

_Nats = TypeVar("_Nats", jax.Array, np.ndarray)


def encode(
    levels: UInt8[Array, "*n"] | Integer[Array, "*n"] | Float[Array, "*n"], num_levels: int
) -> Float[Array, "*n"]:
    """Return the middles of the bins in [-1, 1], float32, Eq. (1); floats are rounded half to even first."""
    x = jnp.round(levels.astype(jnp.float32))
    return 2.0 * ((x + 0.5) / num_levels) - 1.0


def level_logits(
    z_0_rescaled: Float[Array, "*n"], gamma_0: Float[Array, ""], num_levels: int
) -> Float[Array, "*n levels"]:
    """Return unnormalised log p(v | z_0) of every level v, Eq. (2)."""
    values = encode(jnp.arange(num_levels), num_levels)
    return -0.5 * jnp.square((z_0_rescaled[..., None] - values) * jnp.exp(-0.5 * gamma_0))


def decode(z_0_rescaled: Float[Array, "*n"], gamma_0: Float[Array, ""], num_levels: int) -> Float[Array, "*n levels"]:
    """Return log p(v | z_0) of every level v in nats, Eq. (2); z_0_rescaled is z_0 / alpha_0."""
    return jax.nn.log_softmax(level_logits(z_0_rescaled, gamma_0, num_levels))


def log_prob(levels: Levels, z_0_rescaled: Latents, gamma_0: Float[Array, ""], num_levels: int) -> PerImage:
    """Return log p(x | z_0) in nats per image for levels x in {0, ..., num_levels - 1}.

    The table of all levels, 256 times an image, is reduced where it is formed and formed again for the gradient:
    it never stands in memory.
    """

    @jax.checkpoint
    def log_normaliser(z: Latents, gamma: Float[Array, ""]) -> Latents:
        return jax.nn.logsumexp(level_logits(z, gamma, num_levels), axis=-1)

    own_logit = -0.5 * jnp.square((z_0_rescaled - encode(levels, num_levels)) * jnp.exp(-0.5 * gamma_0))
    return jnp.sum(own_logit - log_normaliser(z_0_rescaled, gamma_0), axis=(1, 2, 3))


def bernoulli_log_prob(bits: Levels, logits: Float[Array, "b h w c"]) -> PerImage:
    """Return log p(x) in nats per image of zeros and ones, given the log odds of a one for each pixel."""
    signs = 2.0 * bits.astype(jnp.float32) - 1.0
    return jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=(1, 2, 3))


def most_likely_levels(z_0_rescaled: Latents, num_levels: int) -> Levels:
    """Return argmax over v of p(v | z_0), which is the level whose bin z_0 / alpha_0 lies in, int32."""
    level = jnp.floor((z_0_rescaled + 1.0) * (0.5 * num_levels))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def nats_to_bpd(nats: _Nats, num_dims: int) -> _Nats:
    """Return nats per image, an array of any shape, as bits per dimension."""
    return nats / (num_dims * math.log(2.0))
