"""The compiled training step: made once, ahead of time, with what it costs."""

import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.stages import Compiled
from jaxtyping import Array, Int

from pipelines.freed_memory import make_room_beside, return_freed_memory
from pipelines.memory import peak_bytes
from pipelines.planning.work import count_work
from vdm_lib.compiler import is_one_cpu, training_options
from vdm_lib.config import Config
from vdm_lib.feed import Feed
from vdm_lib.sharding import replicated
from vdm_lib.state import TrainState
from vdm_lib.train import abstract_trained_state, gradient_step
from vdm_lib.types import Metrics, Params
from vdm_lib.update import compile_update_by_layer, update_step

Step = Callable[[TrainState, Any, Int[Array, " devices"]], tuple[TrainState, Metrics, Int[Array, ""]]]


@dataclass(frozen=True)
class Program:
    """A compiled step and its cost.

    Attributes:
        step: (state, inputs of the feed, wish of each device) -> (state, metrics, largest wish).
        compile_seconds: wall time of tracing and compiling.
        peak_bytes: memory that a step needs on each device, the state and resident images included.
        state_bytes: the share of that which the state takes.
        flops: multiplications and additions of the products and convolutions of a step, over all devices, without
            what model.remat repeats.
    """

    step: Step
    compile_seconds: float
    peak_bytes: int
    state_bytes: int
    flops: float

    def cost(self) -> str:
        """Return one line for people."""
        return (
            f"compiled in {self.compile_seconds:.1f} s; a step needs {self.peak_bytes / 1e6:,.0f} MB on each device, "
            f"the state {self.state_bytes / 1e6:,.0f} MB of it, and {self.flops / 1e9:,.4g} GFLOP"
        )


def compile_step(config: Config, mesh: Mesh, feed: Feed, wishes: Int[Array, " devices"]) -> Program:
    """Compile the step for the shapes and shardings at hand; it is never compiled again.

    Raises:
      MachineError: the devices cannot share the batch evenly.
    """
    started = time.monotonic()
    gradient_of = gradient_step(config, mesh)

    @jax.jit
    def gradient(state: TrainState, inputs: Any, wishes: Any) -> tuple[Params, Metrics, Any]:
        return *gradient_of(state, feed.images(inputs), feed.labels(inputs)), jnp.max(wishes)

    state, inputs = abstract_trained_state(config, mesh), feed.inputs(0)
    compile_halves = _compile_apart if is_one_cpu(mesh) else _compile_together
    step, peak = compile_halves(gradient, config, mesh, state, inputs, wishes)
    seconds = time.monotonic() - started
    # 0.6 GiB of the compiler's for cifar10.
    return_freed_memory()
    if config.model.remat:
        without = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=False))
        images, labels = jax.eval_shape(lambda inputs: (feed.images(inputs), feed.labels(inputs)), inputs)
        flops = count_work(jax.make_jaxpr(gradient_step(without, mesh))(state, images, labels)).flops
    else:
        # Traced already: jit keeps the trace.
        flops = count_work(gradient.trace(state, inputs, wishes).jaxpr).flops
    state_bytes = sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state)
    )
    return Program(step, seconds, peak, state_bytes, flops)


def _compile_together(
    gradient: Any, config: Config, mesh: Mesh, state: TrainState, inputs: Any, wishes: Any
) -> tuple[Step, int]:
    """Return gradient and update as one program, and what a device needs to run it, in bytes."""
    update = update_step(config)

    def step(state: TrainState, inputs: Any, wishes: Any) -> tuple[TrainState, Metrics, Any]:
        of_batch, metrics, heard = gradient(state, inputs, wishes)
        return *update(state, of_batch, metrics), heard

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = replicated(mesh)
    jitted = jax.jit(step, out_shardings=(shardings, whole, whole), donate_argnums=0)
    compiled = jitted.lower(state, inputs, wishes).compile(training_options(mesh))
    return compiled, peak_bytes(compiled)


def _compile_apart(
    gradient: Any, config: Config, mesh: Mesh, state: TrainState, inputs: Any, wishes: Any
) -> tuple[Step, int]:
    """Return gradient and update as programs of their own, and what the device needs to run them, in bytes."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        compiling = pool.submit(compile_update_by_layer, config, mesh, state)
        lowered = gradient.lower(state, inputs, wishes)
        gradient_of, update = lowered.compile(training_options(mesh)), compiling.result()

    def step(state: TrainState, inputs: Any, wishes: Any) -> tuple[TrainState, Metrics, Any]:
        of_batch, metrics, heard = gradient_of(state, inputs, wishes)
        return *update.step(state, of_batch, metrics), heard

    held, handed_over = _num_bytes((state, inputs, wishes)), _num_bytes(lowered.out_info)
    make_room_beside(gradient_of.memory_analysis().temp_size_in_bytes)
    return step, held + max(_bytes_beside(gradient_of), handed_over + max(map(_bytes_beside, update.programs)))


def _bytes_beside(compiled: Compiled) -> int:
    """Return what a program takes beside its arguments, in bytes."""
    return peak_bytes(compiled) - compiled.memory_analysis().argument_size_in_bytes


def _num_bytes(arrays: Any) -> int:
    return sum(leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(arrays))
