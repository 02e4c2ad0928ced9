"""Preparing and reading 60,000 images: random bytes in the binary layout of CIFAR-10, so nothing is downloaded."""

import tempfile
from pathlib import Path

import numpy as np

import pipelines.prepare
from benchmarks.figures import Figure, of_repetitions, seconds
from vdm_lib.data import load_split


def write_binary_cifar10(folder: Path) -> None:
    """Write 60,000 random images: a label byte and 3,072 pixel bytes a record."""
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = random.integers(0, 256, (10_000, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())


def figures() -> list[Figure]:
    """Return images/s of the data job and the time of reading the train split with all checks."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "cifar-10-batches-bin"
        source.mkdir()
        write_binary_cifar10(source)
        out = Path(temporary) / "data"
        prepared = pipelines.prepare.run("cifar10", str(out), source=str(source))
        reading = seconds(lambda: load_split(str(out), "train"))
    return [
        Figure(name="prepare 60,000 images of 32x32x3", value=prepared.images_per_s, unit="images/s"),
        of_repetitions("read 50,000 images, all checks", reading, "s", bar="under 2 s"),
    ]
