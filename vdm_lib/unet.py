"""The score network: a U-Net without down-sampling (App. B of arXiv 2107.00630).

All blocks work at the full resolution. Layers carry the names of google-research/vdm, so that its published
parameters fit leaf by leaf; a name with a dot, `down.block_0`, is one part of a path.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_lib.types import Conditioning, Latents, PerImage

NUM_GROUPS = 32


def time_embedding(t: PerImage, num_features: int) -> Float[Array, "b features"]:
    """Return [sin | cos] of 1000 t at num_features / 2 frequencies from 1 down to 1/10000, float32."""
    half = num_features // 2
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(10_000.0) / (half - 1)))
    angles = 1000.0 * t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def fourier_features(z: Latents, exponents: tuple[int, ...]) -> Float[Array, "b h w features"]:
    """Return sin(2 pi 2^n z) for each channel and exponent n, then the cosines in the same order.

    With 256 levels and n = 7 the pair is constant on clean pixels (sin 0, cos -1): only noise can excite it.
    """
    angular = 2.0 * math.pi * 2.0 ** jnp.asarray(exponents, jnp.float32)
    angles = (z[..., None] * angular).reshape(*z.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _group_norm() -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=NUM_GROUPS, epsilon=1e-6)


def _conv3x3(features: int, name: str, kernel_init: Callable[..., Any] | None = None) -> nn.Conv:
    init = kernel_init or nn.initializers.lecun_normal()
    return nn.Conv(features, (3, 3), kernel_init=init, name=name)


class ResnetBlock(nn.Module):
    """GroupNorm, swish and a 3x3 convolution, twice, with the conditioning added in between, and a shortcut."""

    features: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], cond: Float[Array, "b d"], *, deterministic: bool
    ) -> Float[Array, "b h w o"]:
        """Return [b, h, w, features] for x [b, h, w, any] and cond [b, any]."""
        # The unnamed norms become GroupNorm_0 and GroupNorm_1, as in the original.
        h = _conv3x3(self.features, "conv1")(nn.swish(_group_norm()(x)))
        zeros = nn.initializers.zeros
        projection = nn.Dense(self.features, use_bias=False, kernel_init=zeros, name="cond_proj")(cond)
        h = h + projection[:, None, None, :]
        h = nn.swish(_group_norm()(h))
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = _conv3x3(self.features, "conv2", zeros)(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, name="nin_shortcut")(x)
        return x + h


class AttnBlock(nn.Module):
    """Self-attention with one head over all pixels, with a shortcut."""

    @nn.compact
    def __call__(self, x: Latents) -> Latents:
        """Return an array of x's shape."""
        batch, height, width, channels = x.shape
        h = _group_norm()(x).reshape(batch, height * width, channels)
        q = nn.Dense(channels, name="q")(h) / math.sqrt(channels)
        k = nn.Dense(channels, name="k")(h)
        v = nn.Dense(channels, name="v")(h)
        weights = nn.softmax(jnp.einsum("bic,bjc->bij", q, k), axis=-1)
        h = jnp.einsum("bij,bjc->bic", weights, v)
        h = nn.Dense(channels, kernel_init=nn.initializers.zeros, name="proj_out")(h)
        return x + h.reshape(x.shape)


class ScoreUNet(nn.Module):
    """eps_hat(z_t, gamma_t): the noise that the network sees in z_t."""

    n_embd: int
    n_layer: int
    dropout: float
    with_attention: bool
    fourier_exponents: tuple[int, ...]
    gamma_min: float
    gamma_max: float

    @nn.compact
    def __call__(self, z: Latents, gamma_t: PerImage, conditioning: Conditioning, *, deterministic: bool) -> Latents:
        """Return eps_hat of z's shape.

        Args:
          z: noisy latents z_t, [b, h, w, c].
          gamma_t: gamma(t) of each image, [b].
          conditioning: one number per image, [b]: 1 where augmentation touched the image, else 0.
          deterministic: no dropout; otherwise flax takes its rng from the stream `dropout`.
        """
        # The constants of the config, not the learned end points: the original's choice, kept for its checkpoints.
        t = (gamma_t - self.gamma_min) / (self.gamma_max - self.gamma_min)
        embedding = time_embedding(t, self.n_embd)
        cond = jnp.concatenate([embedding, conditioning[:, None].astype(embedding.dtype)], axis=1)
        cond = nn.swish(nn.Dense(4 * self.n_embd, name="dense0")(cond))
        cond = nn.swish(nn.Dense(4 * self.n_embd, name="dense1")(cond))

        def block(name: str, h: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
            return ResnetBlock(self.n_embd, self.dropout, name=name)(h, cond, deterministic=deterministic)

        def attend(name: str, h: Latents) -> Latents:
            return AttnBlock(name=name)(h) if self.with_attention else h

        h = z
        if self.fourier_exponents:
            h = jnp.concatenate([z, fourier_features(z, self.fourier_exponents)], axis=-1)
        h = _conv3x3(self.n_embd, "conv_in")(h)
        skips = [h]
        for i in range(self.n_layer):
            h = attend(f"down.attn_{i}", block(f"down.block_{i}", h))
            skips.append(h)
        h = block("mid.block_1", h)
        h = AttnBlock(name="mid.attn_1")(h)
        h = block("mid.block_2", h)
        for i in range(self.n_layer + 1):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = attend(f"up.attn_{i}", block(f"up.block_{i}", h))
        h = nn.swish(_group_norm()(h))
        h = _conv3x3(z.shape[-1], "conv_out", nn.initializers.zeros)(h)
        return h + z
