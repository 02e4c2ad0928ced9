"""The score network for data without neighbourhoods, such as points of the plane: residual layers on a flat vector."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vdm_lib.embedding import fourier_features, told
from vdm_lib.types import Conditioning, KeyPerImage, Labels, Latents, PerImage


class ResidualLayer(nn.Module):
    """LayerNorm, swish and a dense layer, twice, with the conditioning added in between, and a shortcut."""

    features: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], cond: Float[Array, "b c"] | None = None, mask: Bool[Array, "b d"] | None = None
    ) -> Float[Array, "b d"]:
        """Return an array of x's shape; cond is what the layer is told, mask says what dropout keeps."""
        h = nn.Dense(self.features, name="dense1", dtype=self.dtype)(nn.swish(nn.LayerNorm(dtype=self.dtype)(x)))
        if cond is not None:
            h = h + nn.Dense(self.features, use_bias=False, name="cond_proj", dtype=self.dtype)(cond)
        h = nn.swish(nn.LayerNorm(dtype=self.dtype)(h))
        if mask is not None:
            h = jnp.where(mask, h / (1.0 - self.dropout), 0.0)
        zeros = nn.initializers.zeros
        return x + nn.Dense(self.features, kernel_init=zeros, name="dense2", dtype=self.dtype)(h)


class DenseNet(nn.Module):
    """Residual layers between two dense ones, told nothing: the encoder and the decoder of `latent`."""

    width: int
    num_layers: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        """Return [b, features]."""
        h = nn.Dense(self.width, name="dense_in")(x)
        for i in range(self.num_layers):
            h = ResidualLayer(self.width, 0.0, name=f"layer_{i}")(h)
        return nn.Dense(self.features, name="dense_out")(nn.swish(nn.LayerNorm()(h)))


class ScoreMLP(nn.Module):
    """eps_hat(z_t, gamma_t): the noise that the network sees in z_t."""

    n_embd: int
    n_layer: int
    dropout: float
    fourier_exponents: tuple[int, ...]
    gamma_min: float
    gamma_max: float
    num_classes: int = 0
    """0: no class is told."""
    dtype: Any = jnp.float32
    """Type of the activations inside; parameters, embedding and output are float32."""

    @nn.compact
    def __call__(
        self,
        z: Latents,
        gamma_t: PerImage,
        conditioning: Conditioning,
        dropout_keys: KeyPerImage | None = None,
        labels: Labels | None = None,
    ) -> Latents:
        """Return eps_hat of z's shape, float32; the arguments are those of `unet.ScoreUNet`."""
        t = (gamma_t - self.gamma_min) / (self.gamma_max - self.gamma_min)
        cond = told(t, conditioning, labels, self.n_embd, self.num_classes, self.dtype)
        h = z
        if self.fourier_exponents:
            h = jnp.concatenate([z, fourier_features(z, self.fourier_exponents)], axis=-1)
        h = nn.Dense(self.n_embd, name="dense_in", dtype=self.dtype)(h.reshape(z.shape[0], -1))
        for i in range(self.n_layer):
            mask = None
            if dropout_keys is not None and self.dropout > 0.0:
                mask = jax.vmap(lambda key, i=i: jax.random.bernoulli(
                    jax.random.fold_in(key, i), 1.0 - self.dropout, (self.n_embd,)
                ))(dropout_keys)  # fmt: skip
            h = ResidualLayer(self.n_embd, self.dropout, self.dtype, name=f"layer_{i}")(h, cond, mask)
        h = nn.swish(nn.LayerNorm(dtype=self.dtype)(h))
        h = nn.Dense(math.prod(z.shape[1:]), kernel_init=nn.initializers.zeros, name="dense_out", dtype=self.dtype)(h)
        return z + h.reshape(z.shape).astype(z.dtype)
