"""`python -m benchmarks.compiling_process ours|plain [TOPOLOGY]`: compile a step of `cifar10`, print its seconds.

For this machine's CPU at batch 8, or for a TPU at batch 1024; traced, lowered and compiled without any cache.
"""

import os
import sys
import time
from typing import Any

from pipelines.freed_memory import keep_freed_memory
from pipelines.planning.compile import ENVIRONMENT


def ours() -> float:
    """Compile the step of `vdm train` for the CPU."""
    import numpy as np

    import configs
    from pipelines.stop import StopRequest, Wishes
    from pipelines.training.program import compile_step
    from vdm_lib.batches import Batches
    from vdm_lib.feed import make_feed
    from vdm_lib.sharding import make_mesh

    config, mesh = configs.load("cifar10", {"train.batch_size": 8}), make_mesh()
    images = np.zeros((64, *config.data.image_shape), np.uint8)
    feed = make_feed(images, Batches(len(images), 8, 0), mesh, config.train.data_place)
    return compile_step(config, mesh, feed, Wishes(mesh, StopRequest(), 1e9).array()).compile_seconds


def plain(topology: str = "") -> float:
    """Compile the plain network's step for the CPU, or for a slice of TPUs by the compiler's name for it."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    from benchmarks.plain_network import training_step
    from vdm_lib.sharding import replicated, split_by_image

    if not topology:
        step, *arguments = training_step(batch_size=8)
        return _compile_seconds(jax.jit(step, donate_argnums=0), *arguments)
    # The generator of random bits that people take on TPU: this program compiles in half the time with it.
    jax.config.update("jax_default_prng_impl", "rbg")
    mesh = Mesh(np.asarray(topologies.get_topology_desc(topology, "tpu").devices), ("data",))
    step, *arguments = training_step(batch_size=1024)
    whole, split = replicated(mesh), split_by_image(mesh)
    jitted = jax.jit(step, in_shardings=(whole, split), out_shardings=whole, donate_argnums=0)
    return _compile_seconds(jitted, *arguments)


def _compile_seconds(step: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    step.lower(*arguments).compile()
    return time.perf_counter() - started


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    keep_freed_memory()
    print(ours() if sys.argv[1] == "ours" else plain(*sys.argv[2:]))
