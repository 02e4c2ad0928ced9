"""The training step of `cifar10` against the same step in PyTorch, batch 8, float32."""

from collections.abc import Iterator

from benchmarks.figures import Figure, later_seconds
from benchmarks.in_turn import BATCH, against_torch, images, torch_network

STEPS = 2


def figures() -> Iterator[Figure]:
    """Yield seconds of both and their ratios; needs the group `.[bench]`."""
    return against_torch("training step", f"{__name__}:training_times", f"{__name__}:torch_training_times")


def training_times() -> list[float]:
    """Return seconds of the whole training step of `vdm train`."""
    import jax

    import configs
    from vdm_lib.sharding import make_mesh
    from vdm_lib.train import init_state, make_train_step

    config, mesh = configs.load("cifar10", {"train.batch_size": BATCH}), make_mesh()
    state = jax.block_until_ready(init_state(config, mesh))
    step = make_train_step(config, mesh)

    def train() -> None:
        nonlocal state
        state, metrics = step(state, images())
        jax.block_until_ready(metrics)

    return later_seconds(train, STEPS)


def torch_training_times() -> list[float]:
    """Return seconds of gradients, AdamW and moving average of the network in PyTorch."""
    import torch

    network, z, t = torch_network()
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4, fused=True)

    def train() -> None:
        optimiser.zero_grad()
        torch.mean((network(z, t) - z) ** 2).backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1e-4)

    return later_seconds(train, STEPS)
