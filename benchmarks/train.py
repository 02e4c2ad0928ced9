"""The real `cifar10` model in training at batch 8, float32: speed, memory, and what comes beside the step.

Each repetition is a process of its own, so that its peak memory is its own and nothing is compiled before.
"""

import json
import statistics
import sys
import tempfile
import time

import jax
import numpy as np

import configs
from benchmarks.figures import REPEATS, Figure, matmul_peak_flops, of_repetitions, seconds, single
from benchmarks.process import run
from pipelines.freed_memory import return_freed_memory
from pipelines.stop import StopRequest, Wishes
from pipelines.training.begin import hold
from pipelines.training.program import compile_step
from pipelines.training.record import Record
from vdm_lib.batches import Batches
from vdm_lib.feed import make_feed
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

NUM_IMAGES, STEPS = 50_000, 3


def measure() -> dict[str, float]:
    """Return seconds of each part, and the matrix product's rate, in this process."""
    config, mesh = configs.load("cifar10", {"train.batch_size": 8}), make_mesh()
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
    until_checkpoint_s = min(config.train.checkpoint_every * step_s, 60 * config.train.checkpoint_minutes)
    beside = row_s / (config.train.log_every * step_s) + checkpoint_s / until_checkpoint_s
    # The machine may be busier now than it was: the better of both is its peak.
    peak = max(peak, matmul_peak_flops())
    return {
        "peak": peak, "step_s": step_s, "rate": program.flops / step_s, "share": program.flops / step_s / peak,
        "init_s": init_s, "compile_s": program.compile_seconds, "needed_gib": program.peak_bytes / 2**30,
        "input": input_s / step_s, "checkpoint_s": checkpoint_s, "beside": beside,
    }  # fmt: skip


def figures() -> list[Figure]:
    """Return the figures of the issue, beside the matmul peak of the same processes."""
    # Without a cache of compiled programs, whatever the environment says.
    code = (
        "import os, json; os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)\n"
        "from pipelines.freed_memory import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "from benchmarks.train import measure\n"
        "print(json.dumps(measure()))"
    )
    processes = [run([sys.executable, "-c", code], quiet=True) for _ in range(REPEATS)]
    found = [json.loads(ended.said.splitlines()[-1]) for ended in processes]

    def each(key: str, times: float = 1.0) -> list[float]:
        return [times * one[key] for one in found]

    return [
        of_repetitions("matmul peak, float32", each("peak", 1e-9), "GFLOP/s"),
        of_repetitions("training step, cifar10, batch 8", each("step_s"), "s"),
        of_repetitions("its rate", each("rate", 1e-9), "GFLOP/s"),
        of_repetitions("its rate as a share of the matmul peak", each("share", 100), "%", bar="at least 40 %"),
        of_repetitions("making its parameters", each("init_s"), "s"),
        of_repetitions("compiling it", each("compile_s"), "s", bar="at most 20 s"),
        single("memory that it needs, by the compiler", found[0]["needed_gib"], "GiB"),
        of_repetitions("peak resident memory", [ended.peak_gib for ended in processes], "GiB", bar="at most 6 GiB"),
        of_repetitions("input", each("input", 100), "% of a step", bar="under 1 %"),
        of_repetitions("one checkpoint, written to the end", each("checkpoint_s"), "s"),
        of_repetitions(
            "rows and checkpoints at their default intervals", each("beside", 100), "% of the time", bar="under 3 %"
        ),
    ]
