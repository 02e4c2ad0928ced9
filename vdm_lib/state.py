"""The state of a training run: everything that a checkpoint must hold to go on as if nothing had happened.

The batch, the augmentation, the times, the noise and the dropout of a step are functions of (seed, step), so
neither a random key nor a position in the data is part of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vdm_lib.model import VDM
from vdm_lib.types import Key


@struct.dataclass
class TrainState:
    """Parameters, their moving average and the optimiser's moments after `step` updates."""

    # Not jaxtyping: jax also builds this class from shapes, shardings and None.
    step: Any
    params: Any
    ema_params: Any
    opt_state: Any


def create_state(model: VDM, optimizer: optax.GradientTransformation, key: Key) -> TrainState:
    """Return the state before the first update; the moving average starts as a copy of the parameters."""
    params = model.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A buffer of its own: the training step donates its input, and one buffer cannot be donated twice.
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )
