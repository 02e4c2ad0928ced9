"""A loop over the steps of a chain, in two forms: on the device in one piece, or driven from outside step by step."""

from collections.abc import Callable
from typing import Any

import jax

from vdm_lib.types import Params

Body = Callable[[Params, Any, jax.Array], Any]
"""One step as a pure function of the parameters, the state and i, which may be traced: one program serves all steps."""

Loop = Callable[[Body, Params, Any, int], Any]
"""What carries a state through steps 0 to num_steps - 1: a function of the body, the parameters, the state and them."""


def on_device(body: Body, params: Params, state: Any, num_steps: int | jax.Array) -> Any:
    """Return the state after all steps, by one loop on the device; num_steps may be traced."""
    return jax.lax.fori_loop(0, num_steps, lambda i, state: body(params, state, i), state)
