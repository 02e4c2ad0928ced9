"""What the TPU compiler takes for the full training step of `cifar10_aug`, in a process of its own on this machine.

It needs the group `.[plan]`; without it nothing is measured. The step on CPU is compiled by the bench `train`.
"""

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator

import configs
from benchmarks.figures import Figure
from benchmarks.process import run
from pipelines import plan
from pipelines.planning import accelerators

SLICES = ("v3-64", "v5litepod-16")
_BARS = {"v3-64": ("at most 60 s", "at most 2.5 GiB")}


def figures() -> Iterator[Figure]:
    """Yield CPU seconds and peak memory of compiling for each slice."""
    if importlib.util.find_spec("libtpu") is None:
        print("compiling: the TPU compiler is not here: make setup-plan", file=sys.stderr)
        return
    for name, quick in itertools.product(SLICES, (False, True)):
        cpu_s, peak_gib = _compile(name, quick)
        time_bar, memory_bar = _BARS.get(name, ("", ""))
        what = f"compiling the step of cifar10_aug for {name}{', --quick' if quick else ''}"
        yield Figure(name=f"{what}: CPU time", value=cpu_s, unit="s", bar=time_bar)
        yield Figure(name=f"{what}: memory", value=peak_gib, unit="GiB", bar=memory_bar)


def _compile(name: str, quick: bool) -> tuple[float, float]:
    """Return CPU seconds and peak resident GiB of the process that `vdm plan` compiles in."""
    request = plan.request(configs.load("cifar10_aug"), accelerators.find(name), quick)
    ended = run(plan.COMPILER, json.dumps(request))
    return ended.cpu_s, ended.peak_gib
