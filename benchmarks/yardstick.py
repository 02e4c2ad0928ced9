"""The network of `cifar10` against the same network in PyTorch: a training step and an evaluation, batch 8, float32.

It needs the group `.[bench]`; without it nothing is measured. Both are timed in turn, in processes of their own, so
that neither's threads stand beside the other's.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, of_repetitions

BATCH, SIZE, ROUNDS, REPEATS = 8, 32, 2, 3


def figures() -> Iterator[Figure]:
    """Yield seconds of both and their ratios, each of `ROUNDS` rounds in which they took turns."""
    if importlib.util.find_spec("torch") is None:
        print("yardstick: PyTorch is not here: pip install '.[bench]'", file=sys.stderr)
        return
    rounds = [{name: _in_process(name) for name in ("jax_times", "torch_times")} for _ in range(ROUNDS)]
    for what in ("training step", "evaluation"):
        ours, theirs = (
            [second for each in rounds for second in each[name][what]] for name in ("jax_times", "torch_times")
        )
        yield of_repetitions(f"{what}, cifar10's network, batch 8", ours, "s")
        yield of_repetitions(f"{what} of the same network in PyTorch", theirs, "s")
        ratios = [
            statistics.median(each["jax_times"][what]) / statistics.median(each["torch_times"][what]) for each in rounds
        ]
        yield of_repetitions(f"{what}, PyTorch's time times", ratios, "x", bar="at most 1.1")


def _in_process(name: str) -> dict[str, list[float]]:
    code = f"import json; from benchmarks.yardstick import {name}; print(json.dumps({name}()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _seconds(work: Callable[[], object]) -> list[float]:
    """Return the wall time of each repetition after one that does not count."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times[1:]


def torch_times() -> dict[str, list[float]]:
    """Return seconds of PyTorch: gradients, clip, AdamW and EMA of the network; and the network alone."""
    import torch

    from benchmarks.torch_network import Network

    network = Network(3, 12, 128, 32, 0.1)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4, fused=True)
    z, t = torch.randn(BATCH, 3, SIZE, SIZE), torch.rand(BATCH)

    def train() -> None:
        optimiser.zero_grad()
        torch.mean((network(z, t) - z) ** 2).backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1e-4)

    def evaluate() -> None:
        with torch.no_grad():
            network(z, t)

    trained = _seconds(train)
    network.eval()
    return {"training step": trained, "evaluation": _seconds(evaluate)}


def jax_times() -> dict[str, list[float]]:
    """Return seconds of ours: the whole training step of `vdm train`, and the network alone; as the command runs."""
    from pipelines.freed_memory import keep_freed_memory

    keep_freed_memory()
    import jax
    import jax.numpy as jnp
    import numpy as np

    import configs
    from benchmarks.figures import random_params
    from vdm_lib.compiler import compiler_options
    from vdm_lib.model import VDM
    from vdm_lib.sharding import make_mesh
    from vdm_lib.train import init_state, make_train_step

    config, mesh = configs.load("cifar10", {"train.batch_size": BATCH}), make_mesh()
    state = jax.block_until_ready(init_state(config, mesh))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, *config.data.image_shape), np.uint8)
    step = make_train_step(config, mesh)

    def train() -> None:
        nonlocal state
        state, metrics = step(state, images)
        jax.block_until_ready(metrics)

    trained = _seconds(train)
    model = VDM.from_config(config)
    params, z = random_params(model, rng), jnp.asarray(rng.standard_normal(images.shape, np.float32))
    network = jax.jit(
        lambda params, z: model.eps_hat(params, z, jnp.zeros(BATCH), jnp.zeros(BATCH)),
        compiler_options=compiler_options(mesh),
    )
    return {"training step": trained, "evaluation": _seconds(lambda: network(params, z).block_until_ready())}
