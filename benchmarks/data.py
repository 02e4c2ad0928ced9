"""The data job against TFDS, its memory, and reading against tf.data.

With VDM_CIFAR10=DIR on the real images of DIR, a folder cifar-10-batches-bin; else on random bytes in its layout, so
that nothing has to be downloaded.
"""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, of_repetitions
from benchmarks.process import run

_SYNTHETIC = 60_000
_REPEATS = 3


def write_binary_cifar10(folder: Path) -> None:
    """Write 60,000 random images: a label byte and 3,072 pixel bytes a record."""
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = random.integers(0, 256, (10_000, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())


def _process(*words: str) -> tuple[dict[str, Any], float]:
    """Return what a `data_process` says and its peak resident memory in GiB."""
    ended = run([sys.executable, "-m", "benchmarks.data_process", *words], quiet=True)
    return json.loads(ended.said.splitlines()[-1]), ended.peak_gib


def _preparing(source: Path, what: str, temporary: Path) -> Iterator[Figure]:
    runs = [_process("prepare", str(source), str(temporary / f"data{number}")) for number in range(_REPEATS)]
    ours = [said["images_per_s"] for said, _ in runs]
    yield of_repetitions(f"prepare 60,000 images of 32x32x3 ({what})", ours, "images/s")
    theirs, _ = _process("tfds", str(source), str(temporary / "tfds"))
    yield Figure(name="TFDS builds its cifar10 of the same files", value=theirs["images_per_s"], unit="images/s")
    ratio = statistics.median(ours) / theirs["images_per_s"]
    yield Figure(name="prepare, times as fast as TFDS", value=ratio, unit="x", bar="at least 3")
    yield of_repetitions("its peak memory", [peak for _, peak in runs], "GiB", bar="under 1.5 GiB")
    for times in (1, 2, 4):
        count = times * _SYNTHETIC
        _, peak = _process("synthetic", str(count), str(temporary / f"synthetic{times}"))
        yield Figure(name=f"peak memory, {count:,} synthetic images", value=peak, unit="GiB", bar="flat")


def _reading(data: Path) -> Iterator[Figure]:
    times, _ = _process("tf_data", str(data))
    yield of_repetitions("read 50,000 images, all checks", times["load_split"], "s", bar="under 2 s")
    best = min(times["tf_data"])
    yield of_repetitions("tf.data reads them, batch before parse, six settings", times["tf_data"], "s")
    ratio = best / min(times["load_split"])  # best against best: other work on the machine only adds
    yield Figure(name="read, times as fast as the best of tf.data", value=ratio, unit="x", bar="at least 1")


def figures() -> Iterator[Figure]:
    """Yield images/s and memory of the data job, and the time of reading the train split with all checks."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        given = os.environ.get("VDM_CIFAR10")
        if given is None:
            source, what = temporary / "cifar-10-batches-bin", "random bytes, VDM_CIFAR10 is not set"
            source.mkdir()
            write_binary_cifar10(source)
        else:
            source, what = Path(given).resolve(), "the real CIFAR-10"
            if not (source / "batches.meta.txt").exists():
                print(f"data: VDM_CIFAR10={given} is no folder cifar-10-batches-bin", file=sys.stderr)
                return
        yield from _preparing(source, what, temporary)
        yield from _reading(temporary / "data0")
