"""Our code against the same network in PyTorch, in turn, each in a process of its own.

So neither's threads stand beside the other's. PyTorch comes with the group `.[bench]`; without it nothing is measured.
"""

import importlib.util
import json
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.figures import REPEATS, Figure, of_repetitions
from benchmarks.process import run

BATCH, SIZE = 8, 32
# What a command does before anything else; PyTorch frees and takes its memory as it likes.
_AS_A_COMMAND = "from pipelines.freed_memory import keep_freed_memory; keep_freed_memory()"


def against_torch(what: str, ours: str, theirs: str) -> Iterator[Figure]:
    """Yield seconds of both and their ratios.

    Args:
      what: is done, such as "training step".
      ours: a function, as `module:name`, that returns seconds of several repetitions.
      theirs: the same of PyTorch.
    """
    if importlib.util.find_spec("torch") is None:
        print(f"{what}: PyTorch is not here: make setup-bench", file=sys.stderr)
        return
    rounds = [(_in_process(ours, _AS_A_COMMAND), _in_process(theirs)) for _ in range(REPEATS)]
    yield of_repetitions(f"{what}, cifar10's network, batch {BATCH}", [ours for ours, _ in rounds], "s")
    yield of_repetitions(f"{what} of the same network in PyTorch", [theirs for _, theirs in rounds], "s")
    ratios = [ours / theirs for ours, theirs in rounds]
    yield of_repetitions(f"{what}, PyTorch's time times", ratios, "x", bar="at most 1.1")


def _in_process(function: str, begin: str = "pass") -> float:
    """Return the median of the seconds that a function returns in a process of its own."""
    module, _, name = function.partition(":")
    code = f"{begin}; import json; from {module} import {name}; print(json.dumps({name}()))"
    said = run([sys.executable, "-c", code], quiet=True).said
    return statistics.median(json.loads(said.splitlines()[-1]))


def torch_network() -> tuple[Any, Any, Any]:
    """Return the network in PyTorch, latents and times."""
    import torch

    from benchmarks.torch_network import Network

    return Network(3, 12, 128, 32, 0.1), torch.randn(BATCH, 3, SIZE, SIZE), torch.rand(BATCH)


def images() -> Any:
    """Return images [b, h, w, 3] of random levels."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
