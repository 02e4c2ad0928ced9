"""What compiling takes: the step of `cifar10` for the CPU, and the full step of `cifar10_aug` for TPU slices.

Each is held against `cifar10`'s network written plainly, in turn and in processes of their own: how long a compiler
takes depends on the machine and on its hour. TPU slices need the group `.[plan]`; without it they are left out.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator

import configs
from benchmarks.figures import REPEATS, Figure, of_repetitions
from benchmarks.process import Ended, run
from pipelines import plan
from pipelines.planning import accelerators

_BAR_SLICE, _OTHER_SLICE = "v3-64", "v5litepod-16"
_PROCESS = (sys.executable, "-m", "benchmarks.compiling_process")
# Bars in seconds are of one machine, on which the plain network took 20.5 s for the CPU and 127 CPU-s for v3-64.
_CPU_RATIO_BAR, _TPU_RATIO_BAR = f"at most {20 / 20.5:.2f}", f"at most {60 / 127:.2f}"
_TIME_BAR, _MEMORY_BAR = "at most 60 s", "at most 2.5 GiB"


def figures() -> Iterator[Figure]:
    """Yield seconds for the CPU, CPU seconds and memory for each slice, and the ratios to the plain network."""
    yield from _for_this_cpu()
    if importlib.util.find_spec("libtpu") is None:
        print("compiling: the TPU compiler is not here: make setup-plan", file=sys.stderr)
        return
    yield from _beside_the_plain_network()
    yield from _of_slice(_BAR_SLICE, quick=True)
    yield from _of_slice(_OTHER_SLICE, quick=True)
    yield from _of_slice(_OTHER_SLICE, quick=False)


def _for_this_cpu() -> Iterator[Figure]:
    rounds = [(_seconds("ours"), _seconds("plain")) for _ in range(REPEATS)]
    yield of_repetitions("compiling the step of cifar10 for the CPU", [ours for ours, _ in rounds], "s")
    yield of_repetitions("the same of the plain network", [plain for _, plain in rounds], "s")
    ratios = [ours / plain for ours, plain in rounds]
    yield of_repetitions("compiling for the CPU, the plain network's time times", ratios, "x", bar=_CPU_RATIO_BAR)


def _beside_the_plain_network() -> Iterator[Figure]:
    rounds = [(_compile(_BAR_SLICE, quick=False), _plain(_BAR_SLICE)) for _ in range(REPEATS)]
    yield from _time_and_memory(_BAR_SLICE, "", [ours for ours, _ in rounds])
    plain = [plain_s for _, plain_s in rounds]
    yield of_repetitions(f"the plain network of cifar10 for {_BAR_SLICE}: CPU time", plain, "s")
    ratios = [ours.cpu_s / plain_s for ours, plain_s in rounds]
    name = f"compiling the step of cifar10_aug for {_BAR_SLICE}, the plain network's time times"
    yield of_repetitions(name, ratios, "x", bar=_TPU_RATIO_BAR)


def _of_slice(name: str, quick: bool) -> Iterator[Figure]:
    rounds = [_compile(name, quick) for _ in range(REPEATS)]
    yield from _time_and_memory(name, ", --quick" if quick else "", rounds)


def _time_and_memory(name: str, how: str, rounds: list[Ended]) -> Iterator[Figure]:
    what = f"compiling the step of cifar10_aug for {name}{how}"
    time_bar, memory_bar = (_TIME_BAR, _MEMORY_BAR) if name == _BAR_SLICE else ("", "")
    yield of_repetitions(f"{what}: CPU time", [each.cpu_s for each in rounds], "s", bar=time_bar)
    yield of_repetitions(f"{what}: memory", [each.peak_gib for each in rounds], "GiB", bar=memory_bar)


def _seconds(what: str) -> float:
    """Return the wall time that a process took to compile for the CPU."""
    return float(run([*_PROCESS, what], quiet=True).said.splitlines()[-1])


def _compile(name: str, quick: bool) -> Ended:
    """Compile for a slice in the process of `vdm plan`."""
    request = plan.request(configs.load("cifar10_aug"), accelerators.find(name), quick)
    return run(plan.COMPILER, json.dumps(request))


def _plain(name: str) -> float:
    """Return CPU seconds of the process that compiles the plain network for a slice."""
    topology = plan.request(configs.load("cifar10"), accelerators.find(name))["topology"]
    return run([*_PROCESS, "plain", topology], quiet=True).cpu_s
