"""Sampling step by step: the user sees how far it is, and Ctrl-C does not wait for the last step."""

from typing import Any

import jax
import numpy as np

from pipelines.memory import check_program_fits, one_device
from pipelines.progress import Progress
from vdm_lib.compiler import compiler_options
from vdm_lib.samplers.loops import Body
from vdm_lib.types import Params


def step_by_step(body: Body, params: Params, state: Any, num_steps: int, command: str, advice: str) -> Any:
    """Carry a state through all steps, as `vdm_lib.samplers.loops`: one program, called step by step.

    Args:
      body: (params, state, i) -> state.
      params: what the body is given each time.
      state: tree of arrays, untouched.
      num_steps: i runs from 0 to num_steps - 1.
      command: what the progress is told as.
      advice: what the user should do where the memory does not suffice.

    Raises:
      MachineError: one step does not fit the memory.
    """
    with Progress(command, total=num_steps, unit="step") as progress:
        progress.say(f"{num_steps:,} steps; the first one compiles")
        jitted = jax.jit(body, donate_argnums=1, compiler_options=compiler_options(one_device()))
        step = jitted.lower(params, state, np.int32(0)).compile()
        check_program_fits(step, one_device(), advice)
        # What the caller holds may be part of the state twice, which cannot be donated.
        state = jax.tree.map(lambda leaf: leaf.copy(), state)
        progress.begin()
        for i in range(num_steps):
            state = step(params, state, np.int32(i))
            jax.block_until_ready(state)
            progress.advance()
            progress.report()
    return state
