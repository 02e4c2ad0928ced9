"""Which schedule a set of parameters has, by their names, and whether it can be used."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_lib.config import GammaType
from vdm_lib.errors import CheckpointError
from vdm_lib.types import Params

_NAMES: dict[GammaType, frozenset[str]] = {
    "fixed": frozenset(),
    "learnable_scalar": frozenset({"w", "b"}),
    "learnable_nnet": frozenset({"l1", "l2", "l3"}),
    "learnable_monotone": frozenset({"gamma_0", "gamma_1", "weights", "centres", "steepnesses"}),
}


def other_gamma_type(found: Iterable[str], wanted: Iterable[str]) -> str:
    """Return in words that parameters named `found` are of another schedule than `wanted`; empty if they are not.

    Args:
      found: names of the schedule's parameters in a checkpoint.
      wanted: those of the config.
    """
    theirs, ours = (_type_of(frozenset(names)) for names in (found, wanted))
    if theirs == ours:
        return ""
    return f"its schedule is model.gamma_type={theirs}, that of the config is model.gamma_type={ours}"


def _type_of(names: frozenset[str]) -> str:
    return next((gamma_type for gamma_type, own in _NAMES.items() if own == names), "unknown")


def check_end_points(params: Params, origin: str) -> None:
    """Raise CheckpointError if gamma does not rise from its first to its last end point, where they are parameters."""
    schedule: dict[str, Any] = params.get("gamma", {})
    if "gamma_0" in schedule and not schedule["gamma_0"] < schedule["gamma_1"]:
        ends = ", ".join(f"{name}={float(schedule[name]):.4g}" for name in ("gamma_0", "gamma_1"))
        raise CheckpointError(f"{origin}: the end points of gamma have crossed, {ends}: choose an earlier step")


def from_line(schedule: Params, like: Params) -> Params:
    """Return parameters of `learnable_monotone` with the end points of a line b + |w| t and a new interior.

    Args:
      schedule: w and b, each of shape [1].
      like: shapes of the parameters to return.
    """
    begin, rise = (jnp.asarray(np.asarray(schedule[name])[0]) for name in ("b", "w"))
    new = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    return new | {"gamma_0": begin, "gamma_1": begin + jnp.abs(rise)}
