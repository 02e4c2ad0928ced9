"""The compiled training step: made once, ahead of time, with what it costs."""

import contextlib
import ctypes
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from pipelines.memory import peak_bytes
from pipelines.planning.work import count_work
from vdm_lib.compiler import compiler_options
from vdm_lib.config import Config
from vdm_lib.feed import Feed
from vdm_lib.sharding import replicated
from vdm_lib.state import TrainState
from vdm_lib.train import Metrics, abstract_trained_state, train_step

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
    plain = train_step(config, mesh)

    def step(state: TrainState, inputs: Any, wishes: Any) -> tuple[TrainState, Metrics, Any]:
        state, metrics = plain(state, feed.images(inputs), feed.labels(inputs))
        return state, metrics, jnp.max(wishes)

    state, inputs = abstract_trained_state(config, mesh), feed.inputs(0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = replicated(mesh)
    jitted = jax.jit(step, out_shardings=(shardings, whole, whole), donate_argnums=0)
    # Not to jit: it is traced again below as a part of another program, and a part may have no options.
    compiled = jitted.lower(state, inputs, wishes).compile(compiler_options(mesh))
    seconds = time.monotonic() - started
    _return_freed_memory()
    if config.model.remat:
        without = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=False))
        images, labels = jax.eval_shape(lambda inputs: (feed.images(inputs), feed.labels(inputs)), inputs)
        flops = count_work(train_step(without, mesh), state, images, labels).flops
    else:
        # Traced already: jit keeps the trace.
        flops = count_work(jitted, state, inputs, wishes).flops
    state_bytes = sum(
        leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state)
    )
    return Program(compiled, seconds, peak_bytes(compiled), state_bytes, flops)


def _return_freed_memory() -> None:
    """Give back to the system what the compiler has freed, which glibc keeps: 0.6 GiB for cifar10."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
