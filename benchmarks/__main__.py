"""`make bench`: figures as ratios or beside each other in one run, printed as one markdown table.

The images are random bytes in the official binary layout of CIFAR-10, so nothing has to be downloaded.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import configs
import pipelines.prepare
from vdm_lib.data import Batches, Split, load_split
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state, make_train_step

REPEATS = 5


def write_binary_cifar10(folder: Path) -> None:
    """Write 60,000 random images in the binary layout: a label byte and 3,072 pixel bytes a record."""
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = random.integers(0, 256, (10_000, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())


def median_seconds(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float, float]:
    """Return the median, the least and the greatest wall time of `work`."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times), min(times), max(times)


def train_step_and_input(split: Split) -> tuple[float, float]:
    """Return median seconds of a training step (cifar10, two layers, batch 8) and of making its batch."""
    base = configs.load("cifar10", {"model.n_layer": 2, "train.batch_size": 8})
    mesh = make_mesh()
    state = init_state(base, mesh)
    step = make_train_step(base, mesh)
    batches = Batches(len(split.images), 8, 0)
    state, _ = step(state, split.images[batches.indices_at(0)])
    times = []
    for i in range(1, REPEATS + 1):
        images = split.images[batches.indices_at(i)]
        started = time.perf_counter()
        state, _ = step(state, images)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - started)
    counter = iter(range(1, 10_000))

    def make_batch() -> None:
        jax.device_put(split.images[batches.indices_at(next(counter))]).block_until_ready()

    return statistics.median(times), median_seconds(make_batch, 200)[0]


def main() -> None:
    """Print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "cifar-10-batches-bin"
        source.mkdir()
        write_binary_cifar10(source)
        out = Path(temporary) / "data"
        prepared = pipelines.prepare.run("cifar10", str(out), source=str(source))
        rows.append(("prepare 60,000 images of 32x32x3", f"{prepared.images_per_s:,.0f} images/s"))
        median, least, greatest = median_seconds(lambda: load_split(str(out), "train"))
        rows.append(("load 50,000 images, all checks", f"{median:.2f} s ({least:.2f} to {greatest:.2f})"))
        step_s, input_s = train_step_and_input(load_split(str(out), "train"))
        rows.append(("training step, cifar10 with model.n_layer=2, batch 8", f"{step_s:.2f} s"))
        rows.append(("its input, as a share of the step", f"{100 * input_s / step_s:.3f} %"))
    command = [sys.executable, "-m", "pipelines.command", "--help"]
    median, least, greatest = median_seconds(lambda: subprocess.run(command, capture_output=True, check=True))
    rows.append(("vdm --help", f"{median:.2f} s ({least:.2f} to {greatest:.2f})"))
    print("| what | figure |\n| --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
