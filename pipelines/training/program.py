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
from vdm_lib.compiler import compiler_options, is_one_cpu
from vdm_lib.config import Config
from vdm_lib.feed import Feed
from vdm_lib.sharding import replicated
from vdm_lib.state import TrainState
from vdm_lib.train import Metrics, UpdateStep, abstract_trained_state, gradient_step, update_step
from vdm_lib.types import Params

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
    gradient_of, update = gradient_step(config, mesh), update_step(config, mesh)

    @jax.jit
    def gradient(state: TrainState, inputs: Any, wishes: Any) -> tuple[Params, Metrics, Any]:
        return *gradient_of(state, feed.images(inputs), feed.labels(inputs)), jnp.max(wishes)

    state, inputs = abstract_trained_state(config, mesh), feed.inputs(0)
    compile_halves = _compile_apart if is_one_cpu(mesh) else _compile_together
    step, peak = compile_halves(gradient, update, mesh, state, inputs, wishes)
    seconds = time.monotonic() - started
    # 0.6 GiB of the compiler's for cifar10.
    return_freed_memory()
    if config.model.remat:
        without = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=False))
        images, labels = jax.eval_shape(lambda inputs: (feed.images(inputs), feed.labels(inputs)), inputs)
        flops = count_work(gradient_step(without, mesh), state, images, labels).flops
    else:
        # Traced already: jit keeps the trace.
        flops = count_work(gradient, state, inputs, wishes).flops
    state_bytes = sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state)
    )
    return Program(step, seconds, peak, state_bytes, flops)


def _compile_together(
    gradient: Any, update: UpdateStep, mesh: Mesh, state: TrainState, inputs: Any, wishes: Any
) -> tuple[Step, int]:
    """Return both halves of the step as one program, and what a device needs to run it, in bytes."""

    def step(state: TrainState, inputs: Any, wishes: Any) -> tuple[TrainState, Metrics, Any]:
        of_batch, metrics, heard = gradient(state, inputs, wishes)
        return *update(state, of_batch, metrics), heard

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = replicated(mesh)
    jitted = jax.jit(step, out_shardings=(shardings, whole, whole), donate_argnums=0)
    compiled = jitted.lower(state, inputs, wishes).compile(compiler_options(mesh))
    return compiled, peak_bytes(compiled)


def _compile_apart(
    gradient: Any, update: UpdateStep, mesh: Mesh, state: TrainState, inputs: Any, wishes: Any
) -> tuple[Step, int]:
    """Return both halves of the step as a program each, and what the device needs to run them, in bytes."""
    options = compiler_options(mesh)
    # The update is compiled while the gradient is traced, whose metrics are not known then: it looks at bpd alone.
    of_batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)
    bpd = {"bpd": jax.ShapeDtypeStruct((), jnp.float32)}
    updating = jax.jit(update, donate_argnums=0).lower(state, of_batch, bpd)
    with ThreadPoolExecutor(max_workers=1) as pool:
        compiling = pool.submit(updating.compile, options)
        lowered = gradient.lower(state, inputs, wishes)
        first, second = lowered.compile(options), compiling.result()

    def step(state: TrainState, inputs: Any, wishes: Any) -> tuple[TrainState, Metrics, Any]:
        of_batch, metrics, heard = first(state, inputs, wishes)
        state, norms = second(state, of_batch, {"bpd": metrics["bpd"]})
        return state, metrics | norms, heard

    held, handed_over = _num_bytes((state, inputs, wishes)), _num_bytes(lowered.out_info)
    make_room_beside(first.memory_analysis().temp_size_in_bytes)
    return step, held + max(_bytes_beside(first), handed_over + _bytes_beside(second))


def _bytes_beside(compiled: Compiled) -> int:
    """Return what a program takes beside its arguments, in bytes."""
    return peak_bytes(compiled) - compiled.memory_analysis().argument_size_in_bytes


def _num_bytes(arrays: Any) -> int:
    return sum(leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(arrays))
