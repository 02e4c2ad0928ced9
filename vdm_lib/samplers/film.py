"""What sampling looks like on its way: z_t, and the image that the network sees in it, at some of the steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vdm_lib import sampling
from vdm_lib.model import VDM
from vdm_lib.samplers.loops import Loop, on_device
from vdm_lib.samplers.sampler import Sampler
from vdm_lib.samplers.solvers import Chain
from vdm_lib.types import Key, Labels, Latents, Params


class Film(NamedTuple):
    """f moments of the sampling of b images."""

    z: Float[Array, "f b h w c"]
    """z_t before the step."""
    x_hat: Float[Array, "f b h w c"]
    """Estimate of the image in it, in [-1, 1] where it is a good one."""
    z_0: Latents
    """Where the sampling ends."""


class _State(NamedTuple):
    chain: Chain
    z: Float[Array, "f b h w c"]
    x_hat: Float[Array, "f b h w c"]


def moments(num_steps: int, num_frames: int) -> Int[np.ndarray, " f"]:
    """Return the steps of num_steps to show, evenly from the first to the last; a single one is the last."""
    return np.unique(np.round(np.linspace(num_steps - 1, 0, min(num_frames, num_steps))).astype(np.int32))


def keep(frames: Float[Array, "f ..."], frame: Float[Array, "..."], shown: jax.Array, i: jax.Array) -> jax.Array:
    """Return frames with that of step i at the place of the next step that is shown, where its own will cover it."""
    return jax.lax.dynamic_update_index_in_dim(frames, frame, jnp.searchsorted(shown, i), 0)


def film(
    model: VDM,
    params: Params,
    sampler: Sampler,
    z_1: Latents,
    key_steps: Key,
    num_steps: int,
    num_frames: int,
    loop: Loop = on_device,
    labels: Labels | None = None,
) -> Film:
    """Return the sampling from z_1 at the steps that `moments` names; labels are the class of each image."""
    shown = jnp.asarray(moments(num_steps, num_frames))

    def body(params: Params, state: _State, i: jax.Array) -> _State:
        chain = sampling.advance(model, params, sampler, state.chain, key_steps, i, num_steps, labels)
        return _State(chain, keep(state.z, state.chain.z, shown, i), keep(state.x_hat, chain.x_hat, shown, i))

    empty = jnp.zeros((len(shown), *z_1.shape))
    state = loop(body, params, _State(sampling.begin(z_1), empty, empty), num_steps)
    return Film(state.z, state.x_hat, state.chain.z)
