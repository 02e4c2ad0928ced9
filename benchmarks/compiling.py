"""What compiling takes: the step of `cifar10` for the CPU, and the full step of `cifar10_aug` for TPU slices.

Each is held against `cifar10`'s network written plainly, in turn and in processes of their own: how long a compiler
takes depends on the machine and on its hour. TPU slices need the group `.[plan]`; without it they are left out.
"""

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator

import configs
from benchmarks.figures import Figure, of_repetitions
from benchmarks.process import run
from pipelines import plan
from pipelines.planning import accelerators

SLICES = ("v3-64", "v5litepod-16")
ROUNDS = 3
_PROCESS = (sys.executable, "-m", "benchmarks.compiling_process")
# Bars in seconds are of one machine, on which the plain network took 20.5 s for the CPU and 127 CPU-s for v3-64.
_BARS = {"v3-64": ("at most 60 s", "at most 2.5 GiB")}
_CPU_RATIO_BAR, _TPU_RATIO_BAR = f"at most {20 / 20.5:.2f}", f"at most {60 / 127:.2f}"


def figures() -> Iterator[Figure]:
    """Yield seconds for the CPU, CPU seconds and memory for each slice, and the ratios to the plain network."""
    rounds = [(_seconds("ours"), _seconds("plain")) for _ in range(ROUNDS)]
    yield of_repetitions("compiling the step of cifar10 for the CPU", [ours for ours, _ in rounds], "s")
    yield of_repetitions("the same of the plain network", [plain for _, plain in rounds], "s")
    ratios = [ours / plain for ours, plain in rounds]
    yield of_repetitions("compiling for the CPU, the plain network's time times", ratios, "x", bar=_CPU_RATIO_BAR)
    if importlib.util.find_spec("libtpu") is None:
        print("compiling: the TPU compiler is not here: make setup-plan", file=sys.stderr)
        return
    for name, quick in itertools.product(SLICES, (False, True)):
        cpu_s, peak_gib = _compile(name, quick)
        time_bar, memory_bar = _BARS.get(name, ("", ""))
        what = f"compiling the step of cifar10_aug for {name}{', --quick' if quick else ''}"
        yield Figure(name=f"{what}: CPU time", value=cpu_s, unit="s", bar=time_bar)
        yield Figure(name=f"{what}: memory", value=peak_gib, unit="GiB", bar=memory_bar)
        if name == "v3-64" and not quick:
            plain_s = _plain(name)
            yield Figure(name=f"the plain network of cifar10 for {name}: CPU time", value=plain_s, unit="s")
            yield Figure(name=f"{what}, its time times", value=cpu_s / plain_s, unit="x", bar=_TPU_RATIO_BAR)


def _seconds(what: str) -> float:
    """Return the wall time that a process took to compile for the CPU."""
    return float(run([*_PROCESS, what], quiet=True).said.splitlines()[-1])


def _compile(name: str, quick: bool) -> tuple[float, float]:
    """Return CPU seconds and peak resident GiB of the process that `vdm plan` compiles in."""
    request = plan.request(configs.load("cifar10_aug"), accelerators.find(name), quick)
    ended = run(plan.COMPILER, json.dumps(request))
    return ended.cpu_s, ended.peak_gib


def _plain(name: str) -> float:
    """Return CPU seconds of the process that compiles the plain network for a slice."""
    topology = plan.request(configs.load("cifar10"), accelerators.find(name))["topology"]
    return run([*_PROCESS, "plain", topology], quiet=True).cpu_s
