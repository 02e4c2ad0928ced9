"""A latent variational diffusion model of binary images: an encoder, a VDM of its codes, and a decoder.

With the code f(x) of an image, D numbers that the VDM takes as an image of 1x1xD, and z_t = alpha_t f(x) + sigma_t eps,

    (1)  -log p(x) <= -E log p(x | z_0) + KL(q(z_1 | x) || p(z_1)) + diffusion loss of f(x)
    (2)  p(x | z_0) = product over pixels of Bernoulli(x; sigmoid(logits(z_0 / alpha_0)))

which are the three terms of `model` but for the first. Encoder, VDM and decoder are trained together by their sum.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vdm_lib import diffusion, sampling
from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.likelihood import bernoulli_log_prob
from vdm_lib.mlp import DenseNet
from vdm_lib.model import VDM, Losses, Noise
from vdm_lib.samplers.sampler import ANCESTRAL, Sampler
from vdm_lib.types import Key, Labels, Levels, Params


@dataclass(frozen=True)
class LatentVDM:
    """A latent VDM for binary images of one shape; it holds no parameters."""

    image_shape: tuple[int, int, int]
    model: ModelConfig
    """Of the VDM of the codes: network=mlp, its schedule, its classes."""
    code_dims: int = 32
    """D, numbers of a code."""
    width: int = 256
    """Features of encoder and decoder."""
    num_layers: int = 3
    """Residual layers of each of them."""

    @cached_property
    def of_codes(self) -> VDM:
        """The VDM of the codes, which also samples them."""
        return VDM(data=DataConfig(name="codes", image_shape=(1, 1, self.code_dims)), model=self.model)

    @cached_property
    def _encoder(self) -> DenseNet:
        return DenseNet(self.width, self.num_layers, self.code_dims)

    @cached_property
    def _decoder(self) -> DenseNet:
        return DenseNet(self.width, self.num_layers, math.prod(self.image_shape))

    def init(self, key: Key) -> Params:
        """Return freshly drawn parameters: {encoder, decoder, of_codes}."""
        key_encoder, key_decoder, key_codes = jax.random.split(key, 3)
        return {
            "encoder": self._encoder.init(key_encoder, jnp.zeros((1, math.prod(self.image_shape))))["params"],
            "decoder": self._decoder.init(key_decoder, jnp.zeros((1, self.code_dims)))["params"],
            "of_codes": self.of_codes.init(key_codes),
        }

    def encode(self, params: Params, images: Levels) -> Float[Array, "b 1 1 d"]:
        """Return the code f(x) of each image of zeros and ones, [b, 1, 1, D]."""
        flat = 2.0 * images.reshape(images.shape[0], -1).astype(jnp.float32) - 1.0
        codes: Any = self._encoder.apply({"params": params["encoder"]}, flat)
        return codes.reshape(-1, 1, 1, self.code_dims)

    def logits(self, params: Params, z_0_rescaled: Float[Array, "b 1 1 d"]) -> Float[Array, "b h w c"]:
        """Return the log odds that a pixel is one, given z_0 / alpha_0."""
        flat: Any = self._decoder.apply({"params": params["decoder"]}, z_0_rescaled.reshape(-1, self.code_dims))
        return flat.reshape(-1, *self.image_shape)

    def draw_noise(self, key: Key, num_images: int) -> Noise:
        """Return the noise of one estimate of the loss for a batch."""
        return self.of_codes.draw_noise(key, num_images)

    def losses(self, params: Params, images: Levels, noise: Noise, labels: Labels | None = None) -> Losses:
        """Return the three losses of (1) in nats per image, an unbiased estimate of the bound.

        Args:
          params: as `init` makes them.
          images: zeros and ones, [b, h, w, c], any integer dtype.
          noise: times and noise, one per image.
          labels: class of each image, [b]; None tells none.
        """
        code, gamma = self.encode(params, images), self._gamma
        z_0_rescaled = code + jnp.exp(0.5 * gamma(params, 0.0)) * noise.eps_0
        conditioning = jnp.zeros(images.shape[0])
        return Losses(
            recon=-bernoulli_log_prob(images, self.logits(params, z_0_rescaled)),
            latent=diffusion.prior_loss(code, gamma(params, 1.0)),
            diff=self.of_codes.diffusion_loss(
                params["of_codes"], code, conditioning, noise.t, noise.eps, labels=labels
            ),
        )

    def sample(
        self,
        params: Params,
        key: Key,
        num_images: int,
        num_steps: int,
        sampler: Sampler = ANCESTRAL,
        labels: Labels | None = None,
    ) -> Float[Array, "b h w c"]:
        """Return the probability that each pixel is one, for num_images drawn z_0; to be called under jit."""
        z_1, key_steps = sampling.start(self.of_codes, key, num_images)
        z_0 = sampling.denoise(self.of_codes, params["of_codes"], sampler, z_1, key_steps, num_steps, labels)
        return self.decode(params, z_0)

    def decode(self, params: Params, z_0: Float[Array, "b 1 1 d"]) -> Float[Array, "b h w c"]:
        """Return the probability that each pixel is one given z_0."""
        return jax.nn.sigmoid(self.logits(params, z_0 / diffusion.alpha(self._gamma(params, 0.0))))

    def _gamma(self, params: Params, t: float) -> Float[Array, ""]:
        return self.of_codes.gamma(params["of_codes"], jnp.asarray(t))


def binarise(key: Key, images: UInt8[Array, "b h w c"], num_levels: int) -> UInt8[Array, "b h w c"]:
    """Return zeros and ones, each one with the probability that the level is of the largest."""
    return jax.random.bernoulli(key, images.astype(jnp.float32) / (num_levels - 1)).astype(jnp.uint8)
