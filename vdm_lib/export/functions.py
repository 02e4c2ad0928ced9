"""What a bundle computes, as pure functions of flat parameters; every format is made of these.

Parameters are flat, as `safetensors` loads them: a dict of names joined by '/'. The batch size is free, and with one
seed image i is the same in a batch of any size, but for the rounding of the network.

    eps_hat(params, z_t, gamma_t, conditioning) -> estimate of the noise in z_t, float32 [b, h, w, c]
    bpd(params, images, seed)                   -> one estimate of the bound per image, bits per dimension, float32 [b]
    images(params, z_1, key_data, num_steps)    -> uint8 levels [b, h, w, c] by ancestral sampling from z_1
    start(num, seed)                            -> z_1 and key_data for `images`

Of a class-conditional model the first three also take labels, int32 [b], where num_classes tells no class; another
number makes eps_hat and bpd not a number. If it was trained without labels too, `images` takes guidance after them, the
weight of class-free guidance, float32 [].
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Wrapped
from jax.typing import ArrayLike

from vdm_lib import sampling
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.model import VDM, Noise
from vdm_lib.noise import image_normals
from vdm_lib.samplers.sampler import ANCESTRAL, Sampler
from vdm_lib.types import Conditioning, Labels, Latents, Levels, Params, PerImage, Scalar

# Named, so that a user's jax_default_prng_impl does not change what the files compute.
_PRNG = "threefry2x32"


def flatten_params(params: Params, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested params by their names joined by '/'."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            flat |= flatten_params(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def unflatten_params(flat: dict[str, Any]) -> Params:
    """Return the nested params that `flatten_params` made flat."""
    params: Params = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return params


def eps_hat(
    model: VDM,
    params: dict[str, Any],
    z_t: Latents,
    gamma_t: PerImage,
    conditioning: Conditioning,
    labels: Labels | None = None,
) -> Latents:
    """Return the network's estimate of the noise in z_t, Eq. (13) ff. of arXiv 2107.00630."""
    return model.eps_hat(unflatten_params(params), z_t, gamma_t, conditioning, labels=labels)


def bpd(model: VDM, params: dict[str, Any], images: Levels, seed: ArrayLike, labels: Labels | None = None) -> PerImage:
    """Return one estimate of the negative evidence lower bound (Eq. 11) in bits per dimension of each image.

    The times of a batch are spread evenly over [0, 1). `VDM.draw_noise` needs a batch of known size, this does not.
    """
    key_0, key_t, key_eps = jax.random.split(jax.random.key(seed, impl=_PRNG), 3)
    batch = images.shape[0]
    spread = jnp.arange(batch, dtype=jnp.float32) / jnp.asarray(batch, jnp.float32)
    noise = Noise(
        eps_0=image_normals(key_0, jnp.arange(batch), images.shape[1:]),
        t=jnp.mod(jax.random.uniform(key_t) + spread, 1.0),
        eps=image_normals(key_eps, jnp.arange(batch), images.shape[1:]),
    )
    total = model.losses(unflatten_params(params), images, jnp.zeros(batch), noise, labels=labels).total
    return nats_to_bpd(total, model.data.num_dims)


def start(model: VDM, num: Any, seed: ArrayLike) -> tuple[Latents, jax.Array]:
    """Return standard normal z_1 [num, h, w, c] and the key data uint32 [2] of the steps, both from the seed."""
    z_1, key_steps = sampling.start(model, jax.random.key(seed, impl=_PRNG), num)
    return z_1, jax.random.key_data(key_steps)


def images(
    model: VDM,
    params: dict[str, Any],
    z_1: Latents,
    key_data: ArrayLike,
    num_steps: ArrayLike,
    labels: Labels | None = None,
    guidance: Scalar | None = None,
    sampler: Sampler = ANCESTRAL,
) -> jax.Array:
    """Return uint8 images [b, h, w, c] by num_steps steps from z_1; ancestral ones are Eq. (6) of `diffusion`.

    Guidance is a weight in place of the sampler's.
    """
    nested, num_steps = unflatten_params(params), jnp.asarray(num_steps)
    key_steps = jax.random.wrap_key_data(jnp.asarray(key_data), impl=_PRNG)
    z_0 = sampling.denoise(model, nested, sampler, z_1, key_steps, num_steps, labels, guidance)
    return sampling.levels(model, nested, z_0, sampler, key_steps)


class ToldSpecs(NamedTuple):
    """What the functions of a model take of classes, after their other inputs; empty for a model without them."""

    labels: tuple[jax.ShapeDtypeStruct, ...]
    guidance: tuple[jax.ShapeDtypeStruct, ...]


def told_specs(model: VDM, batch: Any) -> ToldSpecs:
    """Return the shapes and types of labels and guidance, for a batch that may be symbolic."""
    labels = (jax.ShapeDtypeStruct((batch,), jnp.int32),) if model.model.num_classes else ()
    return ToldSpecs(labels, (jax.ShapeDtypeStruct((), jnp.float32),) if model.model.guidable else ())


class Jitted(NamedTuple):
    """The functions of one model under jit, so that every user of a shape shares its compilation."""

    eps_hat: Wrapped
    bpd: Wrapped
    images: Wrapped


@cache
def jitted(model: VDM) -> Jitted:
    """Return the functions of a model under jit; they take flat parameters first."""
    return Jitted(
        eps_hat=jax.jit(partial(eps_hat, model)),
        bpd=jax.jit(partial(bpd, model)),
        images=jax.jit(partial(images, model), static_argnames="sampler"),
    )
