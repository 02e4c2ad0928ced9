"""How soon the command answers."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import REPEATS, Figure, of_repetitions, seconds
from pipelines import compilation_cache


def figures() -> Iterator[Figure]:
    """Yield seconds of `vdm --help` as a whole process, and of `vdm train debug` up to its first row.

    The latter with compiled programs of the run before, and with none.
    """
    command = [sys.executable, "-m", "pipelines.command"]
    times = seconds(lambda: subprocess.run([*command, "--help"], capture_output=True, check=True).returncode)
    yield of_repetitions("vdm --help", times, "s", bar="under 0.3 s")
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "data")
        subprocess.run([*command, "prepare", "digits", "--out", data], capture_output=True, check=True)
        first = [_first_row(command, data, Path(folder), Path(folder) / f"cache{n}") for n in range(REPEATS)]
        again = [_first_row(command, data, Path(folder), Path(folder) / "cache0") for _ in range(REPEATS)]
    yield of_repetitions("vdm train debug, to its first step", again, "s", bar="under 8 s")
    yield of_repetitions("the same with nothing compiled before", first, "s", bar="under 8 s")


def _first_row(command: list[str], data: str, folder: Path, cache: Path) -> float:
    """Return seconds from the start of a training to its first row of metrics."""
    workdir = Path(tempfile.mkdtemp(dir=folder))
    rows, environment = workdir / "metrics.jsonl", os.environ | {compilation_cache.DIRECTORY: str(cache)}
    train = [*command, "train", "debug", "train.log_every=1", "--data", data, "--workdir", str(workdir)]
    started = time.perf_counter()
    with subprocess.Popen(train, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (rows.exists() and rows.stat().st_size):
            time.sleep(0.01)
        taken = time.perf_counter() - started
        process.kill()
    return taken
