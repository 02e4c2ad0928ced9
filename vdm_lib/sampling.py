"""Sampling: from pure noise z_1 step by step to z_0, and from z_0 to levels.

Image k depends on the key, the steps, k and its class alone: not on how many images are drawn with it, nor on the
devices. With class-free guidance (Ho and Salimans, arXiv 2207.12598, Eq. 6) of weight w the network's estimate is

    (1)  (1 + w) eps_hat(z_t, class) - w eps_hat(z_t, none)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from vdm_lib import diffusion, likelihood
from vdm_lib.errors import ConfigError
from vdm_lib.model import VDM
from vdm_lib.noise import image_normals
from vdm_lib.samplers import solvers
from vdm_lib.samplers.sampler import ANCESTRAL, FLOWS, Sampler, Spacing
from vdm_lib.samplers.solvers import Chain, Gammas
from vdm_lib.types import Key, Labels, Latents, Params, Scalar

# The key of the last draw, of levels given z_0, is that of a step which no chain has.
_DECODING = 2**31 - 1


def reverse_step(
    model: VDM,
    params: Params,
    z_t: Latents,
    noise: Latents,
    i: int | jax.Array,
    num_steps: int | jax.Array,
    sampler: Sampler = ANCESTRAL,
    labels: Labels | None = None,
) -> Latents:
    """Return z_s of the ancestral step i of num_steps; evenly in time from t = (T - i) / T to s = (T - i - 1) / T."""
    here = gammas(model, params, sampler.spacing, i, num_steps)
    eps_hat = _eps_hat(model, params, z_t, here.t, labels, sampler.guidance)
    return solvers.ancestral(begin(z_t), eps_hat, here, noise).z


def start(model: VDM, key: Key, num_images: int) -> tuple[Latents, Key]:
    """Return pure noise z_1 of num_images images, and the key of the noise of all steps."""
    key_1, key_steps = jax.random.split(key)
    return image_normals(key_1, jnp.arange(num_images), model.data.image_shape), key_steps


def begin(z_1: Latents) -> Chain:
    """Return the chain before its first step."""
    return Chain(z_1, jnp.zeros_like(z_1))


def advance(
    model: VDM,
    params: Params,
    sampler: Sampler,
    chain: Chain,
    key_steps: Key,
    i: int | jax.Array,
    num_steps: int | jax.Array,
    labels: Labels | None = None,
    guidance: Scalar | None = None,
) -> Chain:
    """Return the chain after step i of num_steps; i and num_steps may be traced, so that one program serves all.

    Labels are the class of each image; without them a class-conditional model is told none. Guidance is a weight that
    may be traced, in place of the sampler's.
    """
    here = gammas(model, params, sampler.spacing, i, num_steps)
    eps_hat = _eps_hat(model, params, chain.z, here.t, labels, sampler.guidance if guidance is None else guidance)
    if sampler.solver in FLOWS:
        return _flow(sampler)(chain, eps_hat, here)
    noise = image_normals(jax.random.fold_in(key_steps, i), jnp.arange(chain.z.shape[0]), chain.z.shape[1:])
    return (solvers.ancestral if sampler.solver == "ancestral" else solvers.dpm_sde)(chain, eps_hat, here, noise)


def retreat(
    model: VDM,
    params: Params,
    sampler: Sampler,
    chain: Chain,
    i: int | jax.Array,
    num_steps: int | jax.Array,
    labels: Labels | None = None,
) -> Chain:
    """Return the chain after step i of num_steps the other way, from z_0 to the noise z_1 that a flow makes it from.

    Raises:
      ConfigError: a sampler that draws noise on its way, which no flow does.
    """
    if sampler.solver not in FLOWS:
        raise ConfigError("only ddim and dpm can be followed back to the noise: take one of them as the solver")
    steps_done = (i + 1, i, jnp.maximum(jnp.asarray(i) - 1, 0))
    here = Gammas(*(gamma_at(model, params, sampler.spacing, done / num_steps) for done in steps_done))
    eps_hat = _eps_hat(model, params, chain.z, here.t, labels, sampler.guidance)
    return _flow(sampler)(chain, eps_hat, here)


def _flow(sampler: Sampler) -> Callable[[Chain, Latents, Gammas], Chain]:
    return solvers.ddim if sampler.solver == "ddim" else solvers.dpm


def gammas(model: VDM, params: Params, spacing: Spacing, i: int | jax.Array, num_steps: int | jax.Array) -> Gammas:
    """Return -log SNR around step i of num_steps."""
    before = jnp.maximum(jnp.asarray(i) - 1, 0)
    steps_left = (num_steps - i - 1, num_steps - i, num_steps - before)
    return Gammas(*(gamma_at(model, params, spacing, left / num_steps) for left in steps_left))


def gamma_at(model: VDM, params: Params, spacing: Spacing, place: float | jax.Array) -> Scalar:
    """Return -log SNR at a place on the way from z_0 (0) to z_1 (1), which the steps divide evenly."""
    place = jnp.asarray(place)
    if spacing == "time":
        return model.gamma(params, place)
    gamma_0, gamma_1 = model.gamma(params, jnp.asarray(0.0)), model.gamma(params, jnp.asarray(1.0))
    return gamma_0 + (gamma_1 - gamma_0) * place


def denoise(
    model: VDM,
    params: Params,
    sampler: Sampler,
    z_1: Latents,
    key_steps: Key,
    num_steps: int | jax.Array,
    labels: Labels | None = None,
    guidance: Scalar | None = None,
) -> Latents:
    """Return z_0 after all steps of `advance`, in one loop on the device; num_steps may be traced."""

    def body(i: jax.Array, chain: Chain) -> Chain:
        return advance(model, params, sampler, chain, key_steps, i, num_steps, labels, guidance)

    # Only the gradients of convolutions are slow inside a loop on CPU.
    return jax.lax.fori_loop(0, num_steps, body, begin(z_1)).z


def levels(
    model: VDM, params: Params, z_0: Latents, sampler: Sampler = ANCESTRAL, key_steps: Key | None = None
) -> UInt8[Array, "b h w c"]:
    """Return the level of each pixel given z_0: the likeliest one, or with decoding `categorical` a draw.

    Raises:
      ValueError: a draw without a key.
    """
    gamma_0 = model.gamma(params, jnp.asarray(0.0))
    z_0_rescaled = z_0 / diffusion.alpha(gamma_0)
    num_levels = model.data.num_levels
    if sampler.decoding == "argmax":
        return likelihood.most_likely_levels(z_0_rescaled, num_levels).astype(jnp.uint8)
    if key_steps is None:
        raise ValueError("drawing levels needs a key")
    key = jax.random.fold_in(key_steps, _DECODING)

    def draw(index: jax.Array, z: jax.Array) -> jax.Array:
        logits = likelihood.level_logits(z, gamma_0, num_levels)
        return jax.random.categorical(jax.random.fold_in(key, index), logits)

    return jax.vmap(draw)(jnp.arange(z_0.shape[0]), z_0_rescaled).astype(jnp.uint8)


def sample(
    model: VDM,
    params: Params,
    key: Key,
    num_images: int,
    num_steps: int,
    sampler: Sampler = ANCESTRAL,
    labels: Labels | None = None,
) -> UInt8[Array, "b h w c"]:
    """Return num_images images of uint8 levels, a function of the key and the labels; to be called under jit.

    `labels.labels_to_draw` makes the labels and refuses what a model cannot do.

    Raises:
      ConfigError: num_images or num_steps below 1.
    """
    if num_images < 1 or num_steps < 1:
        raise ConfigError(f"a sample needs at least one image and one step, got {num_images} and {num_steps}")
    z_1, key_steps = start(model, key, num_images)
    z_0 = denoise(model, params, sampler, z_1, key_steps, num_steps, labels)
    return levels(model, params, z_0, sampler, key_steps)


def _eps_hat(
    model: VDM, params: Params, z_t: Latents, gamma_t: Scalar, labels: Labels | None, guidance: float | Scalar
) -> Latents:
    """Return the network's estimate; with guidance Eq. (1), both of its parts in one call."""
    batch = z_t.shape[0]

    def alone() -> Latents:
        return model.eps_hat(params, z_t, jnp.broadcast_to(gamma_t, (batch,)), jnp.zeros(batch), labels=labels)

    if labels is None:
        return alone()
    # No class is the one after the last; `no_labels` needs a batch of known size, which a program for any has not.
    told = jnp.concatenate([labels, jnp.full_like(labels, model.model.num_classes)])

    def guided() -> Latents:
        gammas = jnp.broadcast_to(gamma_t, (2 * batch,))
        both = model.eps_hat(params, jnp.concatenate([z_t, z_t]), gammas, jnp.zeros(2 * batch), labels=told)
        return (1.0 + guidance) * both[:batch] - guidance * both[batch:]

    if isinstance(guidance, jax.Array):
        # A program that is given the weight evaluates the network once where it is 0.
        return jax.lax.cond(guidance == 0.0, alone, guided)
    return guided() if guidance else alone()
