"""What a score network is told beside the noisy image (time, augmentation flag, class), and fine features of it."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_lib.types import Conditioning, Labels, Latents, PerImage


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


def told(
    t: PerImage, conditioning: Conditioning, labels: Labels | None, n_embd: int, num_classes: int, dtype: Any
) -> Float[Array, "b d"]:
    """Return 4 n_embd numbers that every layer is given; makes `classes`, `dense0` and `dense1` of the calling module.

    Args:
      t: time, or whatever measures the noise from 0 to 1.
      conditioning: 1 where augmentation touched the image, else 0.
      labels: class of each image, num_classes where none is told; only with classes.
      n_embd: numbers of the time's embedding, and of each class's.
      num_classes: 0 for a network without classes.
      dtype: type of the layers.
    """
    embedding = time_embedding(t, n_embd)
    parts = [embedding, conditioning[:, None].astype(embedding.dtype)]
    if num_classes:
        normal = nn.initializers.normal(1.0)
        parts.append(nn.Embed(num_classes + 1, n_embd, embedding_init=normal, name="classes")(labels))
    cond = jnp.concatenate(parts, axis=1)
    cond = nn.swish(nn.Dense(4 * n_embd, name="dense0", dtype=dtype)(cond))
    return nn.swish(nn.Dense(4 * n_embd, name="dense1", dtype=dtype)(cond))
