"""The optimiser: AdamW with a warm-up, as google-research/vdm sets it up, and the moving average of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vdm_lib.config import OptimConfig
from vdm_lib.types import Params

_NOT_DECAYED = frozenset({"bias", "gamma_0", "gamma_1", "weights", "centres", "steepnesses"})


def learning_rate_schedule(optim: OptimConfig, num_steps: int) -> optax.Schedule:
    """Return step -> learning rate, where step counts the updates already made.

    It rises linearly from 0, so the very first update has rate 0: it moves Adam's moments but no parameter. After
    the warm-up it stays, or with `lr_decay` falls linearly to 0 at num_steps.
    """
    if optim.lr_decay:
        decay_steps = max(num_steps - optim.warmup_steps, 1)
        after = optax.linear_schedule(optim.learning_rate, 0.0, decay_steps)
    else:
        after = optax.constant_schedule(optim.learning_rate)
    warmup = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)
    return optax.join_schedules([warmup, after], [optim.warmup_steps])


def decay_mask(params: Params) -> Params:
    """Return True for each leaf that weight decay shrinks: all but those named `bias`.

    The scales of the norms and the noise schedule's w, b and kernels are decayed too: the original's choice. Not so the
    schedule `learnable_monotone`, of which it has no choice to keep: decay would pull its end points to 0.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, params)


def make_optimizer(optim: OptimConfig, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """Return gradient clipping (if asked for) followed by AdamW with the schedule above.

    Its update takes one argument more, `gradient_norm`: that of the whole gradient, where it sees a part of it.
    """
    adamw = optax.adamw(
        learning_rate_schedule(optim, num_steps),
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        mask=decay_mask,
    )
    if optim.gradient_clip_norm is None:
        return optax.with_extra_args_support(adamw)
    return optax.chain(_clip(optim.gradient_clip_norm), adamw)


def _clip(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Return `optax.clip_by_global_norm`, which can be told the norm, for an update of some leaves only."""

    def update(updates: Any, state: Any, params: Any = None, *, gradient_norm: Any = None, **_: Any) -> tuple[Any, Any]:
        if gradient_norm is None:
            gradient_norm = jnp.sqrt(sum_of_squares(updates))
        small = gradient_norm < max_norm
        return jax.tree.map(lambda leaf: jnp.where(small, leaf, leaf / gradient_norm * max_norm), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def update_ema(ema_params: Params, params: Any, ema_rate: float) -> Params:
    """Return ema + (1 - rate) (params - ema) leaf by leaf; no bias correction."""
    return jax.tree.map(lambda ema, new: ema + (1.0 - ema_rate) * (new - ema), ema_params, params)


def sum_of_squares(tree: Any) -> Float[Array, ""]:
    """Return the sum of the squares of all numbers of all leaves."""
    # Two thirds of the leaves are short: a sum for each would take longer to compile than the optimiser. Long ones keep
    # their shapes: sharded over devices, they would be gathered for another.
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    short = [jnp.ravel(leaf) for leaf in leaves if leaf.ndim < 2]
    parts = [leaf for leaf in leaves if leaf.ndim >= 2] + ([jnp.concatenate(short)] if short else [])
    return sum((jnp.sum(jnp.square(part)) for part in parts), jnp.zeros(()))
