"""The network of `cifar10` against the same network in PyTorch: a training step and an evaluation, batch 8, float32.

It needs the group `.[bench]`; without it nothing is measured. Both are timed in turn, in processes of their own, so
that neither's threads stand beside the other's; so are training and evaluation, as they are of our commands.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import REPEATS, Figure, of_repetitions

BATCH, SIZE, STEPS = 8, 32, 2
# What a command does before anything else.
_AS_A_COMMAND = "from pipelines.freed_memory import keep_freed_memory; keep_freed_memory()"


def figures() -> Iterator[Figure]:
    """Yield seconds of both and their ratios, each of several rounds in which they took turns."""
    if importlib.util.find_spec("torch") is None:
        print("yardstick: PyTorch is not here: make setup-bench", file=sys.stderr)
        return
    for what, ours, theirs in (
        ("training step", "training_times", "torch_training_times"),
        ("evaluation", "evaluation_times", "torch_evaluation_times"),
    ):
        # PyTorch frees and takes its memory as it likes.
        rounds = [(_in_process(ours, _AS_A_COMMAND), _in_process(theirs)) for _ in range(REPEATS)]
        yield of_repetitions(f"{what}, cifar10's network, batch 8", [ours for ours, _ in rounds], "s")
        yield of_repetitions(f"{what} of the same network in PyTorch", [theirs for _, theirs in rounds], "s")
        ratios = [ours / theirs for ours, theirs in rounds]
        yield of_repetitions(f"{what}, PyTorch's time times", ratios, "x", bar="at most 1.1")


def _in_process(name: str, begin: str = "pass") -> float:
    """Return the mean of the seconds that a function below returns, called in a process of its own."""
    code = f"{begin}; import json; from benchmarks.yardstick import {name}; print(json.dumps({name}()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return statistics.mean(json.loads(done.stdout.splitlines()[-1]))


def _seconds(work: Callable[[], object]) -> list[float]:
    """Return the wall time of each repetition after one that does not count."""
    times = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times[1:]


def torch_training_times() -> list[float]:
    """Return seconds of gradients, AdamW and moving average of the network in PyTorch."""
    import torch

    network, z, t = _torch_network()
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4, fused=True)

    def train() -> None:
        optimiser.zero_grad()
        torch.mean((network(z, t) - z) ** 2).backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1e-4)

    return _seconds(train)


def torch_evaluation_times() -> list[float]:
    """Return seconds of the network alone in PyTorch."""
    import torch

    network, z, t = _torch_network()
    network.eval()
    with torch.no_grad():
        return _seconds(lambda: network(z, t))


def _torch_network() -> tuple[Any, Any, Any]:
    """Return the network, latents and times."""
    import torch

    from benchmarks.torch_network import Network

    return Network(3, 12, 128, 32, 0.1), torch.randn(BATCH, 3, SIZE, SIZE), torch.rand(BATCH)


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
        state, metrics = step(state, _images())
        jax.block_until_ready(metrics)

    return _seconds(train)


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
    model, split = VDM.from_config(config), Split("test", _images(), np.zeros(BATCH, np.int64), 256, "0" * 64)
    runner = make_runner(config, random_params(model, np.random.default_rng(0)), split, make_mesh())
    loss, times, key = DiffusionLoss(model), np.linspace(0, 1, BATCH, dtype=np.float32), jax.random.key(0)
    return _seconds(lambda: runner(loss, times, key))


def _images() -> Any:
    """Return images [b, h, w, 3] of random levels."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
