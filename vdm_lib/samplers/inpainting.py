"""Drawing the unknown part of images whose other part is given, as RePaint does (Lugmayr et al., arXiv 2201.09865).

With m = 1 where a pixel is to be drawn, x the given image and a step from t to s,

    (1)  z_s = m draw of p(z_s | z_t) + (1 - m) draw of q(z_s | x)
    (2)  z_t = alpha_t / alpha_s z_s + sqrt(sigma_t^2 - alpha_t^2 / alpha_s^2 sigma_s^2) eps,   a draw of q(z_t | z_s)

(1) alone draws the unknown part before the known one can tell it much. So each step is made several times, with (2)
leading back between them, which lets both agree; the more often, the nearer to p(unknown | known).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from vdm_lib import diffusion, sampling
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.noise import image_normals
from vdm_lib.samplers.loops import Loop, on_device
from vdm_lib.samplers.sampler import Sampler
from vdm_lib.samplers.solvers import Chain
from vdm_lib.types import Key, Labels, Latents, Levels, Params, Scalar


def inpaint(
    model: VDM,
    params: Params,
    images: Levels,
    unknown: Bool[Array, "h w"],
    key: Key,
    num_steps: int,
    times_each: int = 5,
    sampler: Sampler | None = None,
    loop: Loop = on_device,
    labels: Labels | None = None,
) -> UInt8[Array, "b h w c"]:
    """Return the images with their unknown pixels drawn; the known ones are as they were.

    Args:
      model: of the images.
      params: of the network.
      images: levels, [b, h, w, c]; those of unknown pixels do not count.
      unknown: the pixels to draw.
      key: of all noise.
      num_steps: steps from noise to image.
      times_each: how often each step is made: the network is called num_steps * times_each times.
      sampler: spacing, decoding and guidance; None takes the original's.
      loop: what carries it through the steps.
      labels: class of each image, [b]; None tells none.
    """
    sampler = Sampler() if sampler is None else sampler
    num_levels, shape = model.data.num_levels, model.data.image_shape
    indices = jnp.arange(images.shape[0])
    mask = unknown[..., None]
    x = encode(jnp.where(mask, 0, images), num_levels)
    key_start, key_drawn, key_known, key_back = jax.random.split(key, 4)

    def noise(key: Key, i: jax.Array) -> Latents:
        return image_normals(jax.random.fold_in(key, i), indices, shape)

    def body(params: Params, chain: Chain, k: jax.Array) -> Chain:
        i, repetition = k // times_each, k % times_each
        here = sampling.gammas(model, params, sampler.spacing, i, num_steps)
        key_step = jax.random.fold_in(key_drawn, repetition)
        drawn = sampling.advance(model, params, sampler, chain, key_step, i, num_steps, labels)
        known = diffusion.alpha(here.s) * x + diffusion.sigma(here.s) * noise(key_known, k)
        z_s = jnp.where(mask, drawn.z, known)
        z = jnp.where(repetition < times_each - 1, _back(z_s, noise(key_back, k), here.s, here.t), z_s)
        return Chain(z, drawn.x_hat)

    z_1, key_steps = sampling.start(model, key_start, images.shape[0])
    z_0 = loop(body, params, sampling.begin(z_1), num_steps * times_each).z
    drawn = sampling.levels(model, params, z_0, sampler, key_steps)
    return jnp.where(mask, drawn, images).astype(jnp.uint8)


def _back(z_s: Latents, eps: Latents, gamma_s: Scalar, gamma_t: Scalar) -> Latents:
    """Return a draw of q(z_t | z_s) given standard normal eps, Eq. (2)."""
    ratio: Float[Array, ""] = diffusion.alpha(gamma_t) / diffusion.alpha(gamma_s)
    variance = jax.nn.sigmoid(gamma_t) - jnp.square(ratio) * jax.nn.sigmoid(gamma_s)
    return ratio * z_s + jnp.sqrt(jnp.maximum(variance, 0.0)) * eps
