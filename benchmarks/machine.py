"""The limits of this machine, measured right before each bench: they move with what others do on it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, later_seconds, matmul_seconds, of_repetitions, seconds

_BLOCK = 2**28


def limits() -> Iterator[Figure]:
    """Yield GFLOP/s of a matrix product by XLA, GB/s of a copy in memory and of a write to disk."""
    size = 2048
    yield of_repetitions("matrix product", [2e-9 * size**3 / each for each in matmul_seconds(size)], "GFLOP/s")
    source = np.ones(_BLOCK // 4, np.float32)
    target = np.zeros_like(source)
    # The pages of the target are taken at the first write.
    copies = later_seconds(lambda: np.copyto(target, source))
    yield of_repetitions("copy in memory", [2e-9 * _BLOCK / each for each in copies], "GB/s")
    with tempfile.TemporaryDirectory() as folder:
        writes = seconds(lambda: write_to_disk(Path(folder) / "block", source))
    yield of_repetitions("write to disk", [1e-9 * _BLOCK / each for each in writes], "GB/s")


def write_to_disk(path: Path, array: np.ndarray) -> None:
    """Write an array and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(array.data)
        file.flush()
        os.fsync(file.fileno())
