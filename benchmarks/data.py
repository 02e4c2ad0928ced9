"""The data job against TFDS, its memory, and reading against tf.data.

With VDM_CIFAR10=DIR on the real images of DIR, a folder cifar-10-batches-bin; else on random bytes in its layout, so
that nothing has to be downloaded.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import REPEATS, Figure, of_repetitions
from benchmarks.process import run

_SYNTHETIC = 60_000


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
    def in_turn(number: int) -> tuple[float, float, float]:
        said, peak_gib = _process("prepare", str(source), str(temporary / f"data{number}"))
        of_tfds, _ = _process("tfds", str(source), str(temporary / f"tfds{number}"))
        return said["images_per_s"], of_tfds["images_per_s"], peak_gib

    ours, theirs, peaks = zip(*(in_turn(number) for number in range(REPEATS)), strict=True)
    yield of_repetitions(f"prepare 60,000 images of 32x32x3 ({what})", ours, "images/s")
    yield of_repetitions("TFDS builds its cifar10 of the same files", theirs, "images/s")
    ratios = [us / them for us, them in zip(ours, theirs, strict=True)]
    yield of_repetitions("prepare, times as fast as TFDS", ratios, "x", bar="at least 3")
    yield of_repetitions("its peak memory", peaks, "GiB", bar="under 1.5 GiB")
    for times in (1, 2, 4):
        count = times * _SYNTHETIC
        peaks = [_peak_gib_of_synthetic(count, temporary / "synthetic") for _ in range(REPEATS)]
        yield of_repetitions(f"peak memory, {count:,} synthetic images", peaks, "GiB", bar="flat")


def _peak_gib_of_synthetic(count: int, out: Path) -> float:
    _, peak_gib = _process("synthetic", str(count), str(out))
    shutil.rmtree(out)
    return peak_gib


def _reading(data: Path) -> Iterator[Figure]:
    times, _ = _process("tf_data", str(data), str(REPEATS))
    ours, theirs = times["load_split"], times["tf_data"]
    yield of_repetitions("read 50,000 images, all checks", ours, "s", bar="under 2 s")
    yield of_repetitions("tf.data reads them, batch before parse, the best of six settings", theirs, "s")
    ratios = [them / us for us, them in zip(ours, theirs, strict=True)]
    yield of_repetitions("read, times as fast as the best of tf.data", ratios, "x", bar="at least 1")


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
