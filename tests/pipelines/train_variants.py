"""`python -m tests.pipelines.train_variants NAME OUT.json`: three steps of a variant, named after its devices."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import configs
from pipelines.stop import StopRequest, Wishes
from pipelines.training.program import compile_step
from vdm_lib.batches import Batches
from vdm_lib.feed import make_feed
from vdm_lib.sharding import make_mesh
from vdm_lib.train import as_trained, init_state

# Full rate from the second update on, every kind of randomness, gradients that reach every leaf at the third.
BASE = {"optim.warmup_steps": 1, "data.augmentation": "flip_rotate", "train.data_place": "replicated"}
MICROBATCHES, ZERO = {"train.microbatches": 2}, {"train.shard": "zero"}
MONOTONE = {"model.gamma_type": "learnable_monotone"}
VARIANTS = {
    "1 plain": {},
    "1 microbatches": MICROBATCHES,
    "1 remat and scan": {"model.remat": True, "model.scan_layers": "on"},
    "1 costly": {"model.remat": True, "model.remat_keeps": "costly"},
    "1 bfloat16": {"train.compute_dtype": "bfloat16"},
    "2 sharded": {"train.data_place": "sharded"},
    "4 zero host": ZERO | {"train.data_place": "host"},
    "1 monotone": MONOTONE,
    "1 monotone scan microbatches": MONOTONE | MICROBATCHES | {"model.scan_layers": "on"},
    "8 monotone zero sharded microbatches": MONOTONE | ZERO | MICROBATCHES | {"train.data_place": "sharded"},
    "8 zero scan": ZERO | {"model.scan_layers": "on"},
    "8 zero sharded microbatches": ZERO | MICROBATCHES | {"train.data_place": "sharded"},
}


def rows(changes: dict[str, object]) -> list[dict[str, float]]:
    """Return the metrics of three steps."""
    config, mesh = configs.load("debug", BASE | changes), make_mesh()
    # A number of images that no number of devices divides.
    images = np.random.default_rng(0).integers(0, 17, (101, 8, 8, 1)).astype(np.uint8)
    feed = make_feed(images, Batches(len(images), config.train.batch_size, 1), mesh, config.train.data_place)
    wishes = Wishes(mesh, StopRequest(), 1e9)
    program = compile_step(config, mesh, feed, wishes.array())
    state, found = as_trained(init_state(config, mesh), config, mesh), []
    for step in range(3):
        state, metrics, _ = program.step(state, feed.inputs(step), wishes.array())
        row = {key: float(value) for key, value in metrics.items()} | {"flops": program.flops}
        # Of the schedule every parameter: a norm over all would hide them.
        for name, leaf in state.params["gamma"].items():
            row |= {f"{name}[{i}]": float(value) for i, value in enumerate(np.ravel(leaf))}
        found.append(row)
    feed.close()
    return found


if __name__ == "__main__":
    _, name, out = sys.argv
    assert jax.device_count() == int(name[0])
    Path(out).write_text(json.dumps(rows(VARIANTS[name])))
