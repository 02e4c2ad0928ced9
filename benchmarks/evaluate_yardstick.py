"""A batch of `vdm eval` of `cifar10` against the same network in PyTorch, batch 8, float32."""

from collections.abc import Iterator

from benchmarks.figures import Figure, later_seconds
from benchmarks.in_turn import BATCH, against_torch, images, torch_network

# An evaluation is thousands of batches: what the first ones take more does not count.
BATCHES = 5


def figures() -> Iterator[Figure]:
    """Yield seconds of both and their ratios; needs the group `.[bench]`."""
    return against_torch("evaluation", f"{__name__}:evaluation_times", f"{__name__}:torch_evaluation_times")


def evaluation_times() -> list[float]:
    """Return seconds of one batch of `vdm eval`."""
    import jax
    import numpy as np

    import configs
    from benchmarks.figures import random_params
    from vdm_lib.data import Split
    from vdm_lib.evaluation.bound import DiffusionLoss
    from vdm_lib.evaluation.measure import make_runner
    from vdm_lib.model import VDM
    from vdm_lib.sharding import make_mesh

    config = configs.load("cifar10", {"eval.batch_size": BATCH})
    model, split = VDM.from_config(config), Split("test", images(), np.zeros(BATCH, np.int64), 256, "0" * 64)
    runner = make_runner(config, random_params(model, np.random.default_rng(0)), split, make_mesh())
    loss, times, key = DiffusionLoss(model), np.linspace(0, 1, BATCH, dtype=np.float32), jax.random.key(0)
    return later_seconds(lambda: runner(loss, times, key), BATCHES)


def torch_evaluation_times() -> list[float]:
    """Return seconds of the network alone in PyTorch."""
    import torch

    network, z, t = torch_network()
    network.eval()
    with torch.no_grad():
        return later_seconds(lambda: network(z, t), BATCHES)
