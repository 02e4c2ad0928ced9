"""The real `cifar10` model in training at batch 8, float32: speed, memory, and what comes beside the step.

Measured in a process of its own, so that its peak memory is its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import configs
from benchmarks.figures import Figure, matmul_peak_flops, of_repetitions, peak_rss_gib, seconds
from pipelines.freed_memory import return_freed_memory
from pipelines.stop import StopRequest, Wishes
from pipelines.training.begin import hold
from pipelines.training.program import compile_step
from pipelines.training.record import Record
from vdm_lib.batches import Batches
from vdm_lib.feed import make_feed
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

NUM_IMAGES, STEPS, COMPILATIONS = 50_000, 5, 5


def measure(overrides: dict[str, object]) -> dict[str, object]:
    """Return seconds of each part and the peaks, in this process."""
    config, mesh = configs.load("cifar10", {"train.batch_size": 8, **overrides}), make_mesh()
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *config.data.image_shape), np.uint8)
    peak = matmul_peak_flops()
    started = time.perf_counter()
    state = jax.block_until_ready(init_state(config, mesh))
    init_s = time.perf_counter() - started
    feed = make_feed(images, Batches(NUM_IMAGES, 8, 0), mesh, config.train.data_place)
    wishes = Wishes(mesh, StopRequest(), 1e9)
    program = compile_step(config, mesh, feed, wishes.array())
    times = []
    for step in range(STEPS + 1):
        started = time.perf_counter()
        state, metrics, _ = jax.block_until_ready(program.step(state, feed.inputs(step), wishes.array()))
        times.append(time.perf_counter() - started)
    counter = iter(range(STEPS + 1, 100_000))
    input_s = statistics.median(seconds(lambda: feed.inputs(next(counter)), 200))
    with tempfile.TemporaryDirectory() as workdir, hold(workdir, config) as checkpoints:
        row = {key: float(value) for key, value in metrics.items()}
        with Record(workdir, from_step=0) as record:
            row_s = statistics.median(seconds(lambda: record.write(1, row), 20))
        started = time.perf_counter()
        checkpoints.save(state, {"data_fingerprints": {}})
        checkpoints.wait()
        checkpoint_s = time.perf_counter() - started
        return_freed_memory()
        # What a checkpoint leaves in the heap can make the memory of later steps larger.
        for step in range(STEPS + 1, STEPS + 3):
            state, _, _ = jax.block_until_ready(program.step(state, feed.inputs(step), wishes.array()))
    step_s = statistics.median(times[1:])
    until_checkpoint = min(config.train.checkpoint_every * step_s, 60 * config.train.checkpoint_minutes)
    beside = row_s / (config.train.log_every * step_s) + checkpoint_s / until_checkpoint
    # The machine may be busier now than it was: the better of both is its peak.
    peak, rss_gib = max(peak, matmul_peak_flops()), peak_rss_gib()
    again = [compile_step(config, mesh, feed, wishes.array()).compile_seconds for _ in range(COMPILATIONS - 1)]
    return {
        "step_s": times[1:], "flops": program.flops, "peak": peak, "init_s": init_s, "peak_bytes": program.peak_bytes,
        "compile_s": [program.compile_seconds, *again], "input": input_s / step_s, "checkpoint_s": checkpoint_s,
        "beside": beside, "rss_gib": rss_gib,
    }  # fmt: skip


def figures() -> list[Figure]:
    """Return the figures of the issue, beside the matmul peak of the same process."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "figures.json"
        # Without a cache of compiled programs, whatever the environment says.
        code = (
            "import os, sys, json, pathlib; os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)\n"
            "from pipelines.freed_memory import keep_freed_memory\n"
            "keep_freed_memory()\n"
            "from benchmarks.train import measure\n"
            "pathlib.Path(sys.argv[1]).write_text(json.dumps(measure(json.loads(sys.argv[2]))))"
        )
        subprocess.run([sys.executable, "-c", code, str(out), json.dumps({})], check=True)
        found = json.loads(out.read_text())
    rates = [found["flops"] / step_s / 1e9 for step_s in found["step_s"]]
    shares = [100 * 1e9 * rate / found["peak"] for rate in rates]
    return [
        Figure(name="matmul peak, float32", value=found["peak"] / 1e9, unit="GFLOP/s"),
        of_repetitions("training step, cifar10, batch 8", found["step_s"], "s"),
        of_repetitions("its rate", rates, "GFLOP/s"),
        of_repetitions("its rate as a share of the matmul peak", shares, "%", bar="at least 40 %"),
        Figure(name="making its parameters", value=found["init_s"], unit="s"),
        of_repetitions("compiling it", found["compile_s"], "s", bar="at most 20 s"),
        Figure(name="memory that it needs, by the compiler", value=found["peak_bytes"] / 2**30, unit="GiB"),
        Figure(name="peak resident memory", value=found["rss_gib"], unit="GiB", bar="at most 6 GiB"),
        Figure(name="input", value=100 * found["input"], unit="% of a step", bar="under 1 %"),
        Figure(name="one checkpoint, written to the end", value=found["checkpoint_s"], unit="s"),
        Figure(
            name="rows and checkpoints at their default intervals", value=100 * found["beside"],
            unit="% of the time", bar="under 3 %",
        ),
    ]  # fmt: skip
