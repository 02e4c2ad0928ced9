"""Saving and restoring the state of `cifar10`, beside the disk's own time for as many bytes in one plain file."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import configs
from benchmarks.figures import REPEATS, Figure, of_repetitions, seconds
from benchmarks.machine import write_to_disk
from vdm_lib.checkpoints import Checkpoints, Keep
from vdm_lib.sharding import make_mesh
from vdm_lib.train import abstract_state


def figures() -> Iterator[Figure]:
    """Yield seconds to save and to restore, and both as multiples of the plain file's."""
    config = configs.load("cifar10")
    abstract = abstract_state(config, make_mesh())
    metadata = {"config": configs.to_json(config), "data_fingerprints": {}}
    leaves, structure = jax.tree.flatten(abstract)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]
    state = jax.tree.unflatten(structure, arrays)
    bytes_ = np.concatenate([np.asarray(array).ravel().view(np.uint8) for array in arrays])
    saved, restored = [], []
    with tempfile.TemporaryDirectory() as folder:
        written = seconds(lambda: write_to_disk(Path(folder) / "plain", bytes_))
        read = seconds(lambda: (Path(folder) / "plain").read_bytes())
        with Checkpoints(folder, keep=Keep(newest=1)) as checkpoints:
            for step in range(1, REPEATS + 1):
                numbered = state.replace(step=jnp.asarray(step, jnp.int32))
                started = time.perf_counter()
                checkpoints.save(numbered, metadata)
                checkpoints.wait()
                saved.append(time.perf_counter() - started)
                started = time.perf_counter()
                jax.block_until_ready(checkpoints.restore(step, abstract))
                restored.append(time.perf_counter() - started)
    size = f"{bytes_.nbytes / 1e6:.0f} MB"
    yield of_repetitions(f"a checkpoint of cifar10, {size}, written to the end", saved, "s")
    yield _times("the time of one plain file times", saved, written)
    yield of_repetitions("the checkpoint restored and its checksums compared", restored, "s")
    yield _times("the time to read the plain file times", restored, read)


def _times(name: str, ours: list[float], plain: list[float]) -> Figure:
    return of_repetitions(name, [each / statistics.median(plain) for each in ours], "x")
