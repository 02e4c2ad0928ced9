"""Ancestral sampling: from pure noise z_1 down to z_0 by draws of p(z_s | z_t), Eq. (6) of `diffusion`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from vdm_lib import diffusion, likelihood
from vdm_lib.errors import ConfigError
from vdm_lib.model import VDM
from vdm_lib.types import Key, Latents, Params


def reverse_step(
    model: VDM, params: Params, z_t: Latents, noise: Latents, i: jax.Array, num_steps: int | jax.Array
) -> Latents:
    """Return z_s for step i of num_steps: from t = (T - i) / T to s = (T - i - 1) / T."""
    t = (num_steps - i) / num_steps
    s = (num_steps - i - 1) / num_steps
    gamma_t, gamma_s = model.gamma(params, jnp.asarray(t)), model.gamma(params, jnp.asarray(s))
    batch = z_t.shape[0]
    eps_hat = model.eps_hat(params, z_t, jnp.broadcast_to(gamma_t, (batch,)), jnp.zeros(batch))
    return diffusion.p_sample(z_t, eps_hat, noise, gamma_s, gamma_t)


def start(model: VDM, key: Key, num_images: int) -> tuple[Latents, Key]:
    """Return pure noise z_1 of num_images images, and the key of the noise of all steps."""
    key_1, key_steps = jax.random.split(key)
    return jax.random.normal(key_1, (num_images, *model.data.image_shape)), key_steps


def denoise(
    model: VDM,
    params: Params,
    z: Latents,
    key_steps: Key,
    first: int | jax.Array,
    stop: int | jax.Array,
    num_steps: int,
) -> Latents:
    """Return z after the steps first to stop - 1 of num_steps; pieces one after the other are the whole."""

    def body(i: jax.Array, z: Latents) -> Latents:
        noise = jax.random.normal(jax.random.fold_in(key_steps, i), z.shape)
        return reverse_step(model, params, z, noise, i, num_steps)

    # A loop on the device is fine here: only the gradients of convolutions are slow inside one on CPU.
    return jax.lax.fori_loop(first, stop, body, z)


def levels(model: VDM, params: Params, z_0: Latents) -> UInt8[Array, "b h w c"]:
    """Return the likeliest level of each pixel given z_0."""
    z_0_rescaled = z_0 / diffusion.alpha(model.gamma(params, jnp.asarray(0.0)))
    return likelihood.most_likely_levels(z_0_rescaled, model.data.num_levels).astype(jnp.uint8)


def sample(model: VDM, params: Params, key: Key, num_images: int, num_steps: int) -> UInt8[Array, "b h w c"]:
    """Return num_images images of uint8 levels, a function of the key alone; to be called under jit.

    Raises:
      ConfigError: num_images or num_steps below 1.
    """
    if num_images < 1 or num_steps < 1:
        raise ConfigError(f"a sample needs at least one image and one step, got {num_images} and {num_steps}")
    z_1, key_steps = start(model, key, num_images)
    return levels(model, params, denoise(model, params, z_1, key_steps, 0, num_steps, num_steps))
