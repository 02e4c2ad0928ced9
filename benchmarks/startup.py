"""How soon the command answers."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import REPEATS, Figure, of_repetitions, seconds
from pipelines.compilation_cache import DIRECTORY

_COMMAND = (sys.executable, "-m", "pipelines.command")


def figures() -> Iterator[Figure]:
    """Yield seconds of `vdm --help` as a whole process, and of `vdm train debug` up to its first row.

    The latter with what a run before has compiled, and with nothing compiled. Beside them an empty program, which is
    what Python itself takes at this hour.
    """
    yield of_repetitions("an empty program in Python", _wall_s(sys.executable, "-c", "pass"), "s")
    yield of_repetitions("vdm --help", _wall_s(*_COMMAND, "--help"), "s", bar="under 0.3 s")
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "data")
        subprocess.run([*_COMMAND, "prepare", "digits", "--out", data], capture_output=True, check=True)
        first = [_first_row(data, Path(folder), Path(folder) / f"cache{n}") for n in range(REPEATS)]
        again = [_first_row(data, Path(folder), Path(folder) / f"cache{n}") for n in range(REPEATS)]
    yield of_repetitions("vdm train debug, to its first step", again, "s", bar="under 8 s")
    yield of_repetitions("the same with nothing compiled before", first, "s")


def _wall_s(*command: str) -> list[float]:
    return seconds(lambda: subprocess.run(command, capture_output=True, check=True).returncode)


def _first_row(data: str, folder: Path, cache: Path) -> float:
    """Return seconds from the start of a training to its first row of metrics."""
    workdir = Path(tempfile.mkdtemp(dir=folder))
    rows = workdir / "metrics.jsonl"
    # Where the command keeps by itself what it compiles, and as it does.
    environment = {key: value for key, value in os.environ.items() if key != DIRECTORY} | {"XDG_CACHE_HOME": str(cache)}
    train = [*_COMMAND, "train", "debug", "train.log_every=1", "--data", data, "--workdir", str(workdir)]
    started = time.perf_counter()
    with subprocess.Popen(train, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (rows.exists() and rows.stat().st_size):
            time.sleep(0.01)
        taken = time.perf_counter() - started
        process.kill()
    return taken
