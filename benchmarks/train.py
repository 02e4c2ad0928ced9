"""A training step of `cifar10` with two layers at batch 8, and what its input costs."""

import statistics
import time

import jax
import numpy as np

import configs
from benchmarks.figures import REPEATS, Figure, of_repetitions, seconds
from vdm_lib.batches import Batches
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state, make_train_step

NUM_IMAGES = 50_000


def figures() -> list[Figure]:
    """Return seconds of a step and the share of its input."""
    config = configs.load("cifar10", {"model.n_layer": 2, "train.batch_size": 8})
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *config.data.image_shape), np.uint8)
    mesh = make_mesh()
    step = make_train_step(config, mesh)
    batches = Batches(NUM_IMAGES, config.train.batch_size, 0)
    state, _ = step(init_state(config, mesh), images[batches.indices_at(0)])
    times = []
    for i in range(1, REPEATS + 1):
        batch = images[batches.indices_at(i)]
        started = time.perf_counter()
        # The step takes the buffers of the state, so each step goes on from the one before.
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - started)
    counter = iter(range(1, 10_000))
    making = seconds(lambda: jax.device_put(images[batches.indices_at(next(counter))]), 200)
    share = 100 * statistics.median(making) / statistics.median(times)
    return [
        of_repetitions("training step, cifar10 with model.n_layer=2, batch 8", times, "s"),
        Figure(name="its input", value=share, unit="% of the step", bar="under 2 %"),
    ]
