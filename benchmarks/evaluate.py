"""The real `cifar10` model at batch 32: how near the network is to the machine's limit, and what comes beside it."""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import configs
from benchmarks.figures import REPEATS, Figure, later_seconds, matmul_peak_flops, of_repetitions, random_params, seconds
from pipelines import run_dir
from vdm_lib.config import EvalConfig
from vdm_lib.data import Split, load_split
from vdm_lib.evaluate import measure, spread_of
from vdm_lib.evaluation import time_density
from vdm_lib.evaluation.bound import DiffusionLoss, make_bound
from vdm_lib.evaluation.closed_forms import per_image, prior_table, recon_table
from vdm_lib.evaluation.control import make_controls
from vdm_lib.evaluation.measure import make_runner
from vdm_lib.evaluation.passes import Estimate, Runner
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.sharding import make_mesh
from vdm_lib.types import Params

BATCH = 32
TEST_IMAGES = 10_000
DEMO = Path("demo")


@dataclass(frozen=True)
class _WithoutNetwork(VDM):
    def eps_hat(self, params, z_t, gamma_t, conditioning, dropout_key=None, labels=None):
        return z_t


def figures() -> list[Figure]:
    """Return the network's share of the matmul peak, that of everything else, and the gain of what is fitted."""
    return [*_network(), *_gain()]


def _network() -> list[Figure]:
    config = configs.load("cifar10", {"eval.batch_size": BATCH})
    model = VDM.from_config(config)
    rng = np.random.default_rng(0)
    params = random_params(model, rng)
    images = rng.integers(0, 256, (BATCH, *config.data.image_shape), np.uint8)
    split = Split("test", images, np.zeros(BATCH, np.int64), 256, "0" * 64)
    runner = make_runner(config, params, split, make_mesh())
    times, key = time_density.positions(0, 0, BATCH).astype(np.float32), jax.random.key(0)
    lowered = jax.jit(model.eps_hat).lower(
        params, jnp.zeros(images.shape), jnp.zeros(BATCH), jnp.zeros(BATCH, jnp.int32)
    )
    flops = lowered.cost_analysis()["flops"]

    def work(runner: Runner, estimate: Estimate) -> list[float]:
        return later_seconds(lambda: runner(estimate, times, key))

    # Before and after the network, as the machine's own speed moves.
    before = matmul_peak_flops()
    whole = work(runner, DiffusionLoss(model))
    peak = max(before, matmul_peak_flops())
    at_once = work(replace(runner, at_once=0), DiffusionLoss(model))
    beside = work(runner, DiffusionLoss(_WithoutNetwork(data=config.data, model=config.model)))
    many = np.resize(images, (TEST_IMAGES, *config.data.image_shape))
    runner_of_many = replace(runner, split=replace(split, images=many))

    def fit() -> list[Params]:
        return [control.runner.params for control in make_controls(model, runner_of_many, "linear_and_levels")]

    def exact_parts() -> None:
        for table in (recon_table(-13.3, 256), prior_table(5.0, 256)):
            per_image(table, many)

    fitted, exact = seconds(fit), seconds(exact_parts)
    controls = make_controls(model, runner_of_many, "linear_and_levels")
    controls = [replace(control, runner=replace(control.runner, split=split)) for control in controls]
    of_controls = [sum(each) for each in zip(*(work(each.runner, each.estimate) for each in controls), strict=True)]
    batch_s = statistics.median(whole)
    pass_s = batch_s * TEST_IMAGES / BATCH
    return [
        of_repetitions(
            "evaluation, cifar10, batch 32: FLOP/s of the network over the matmul peak",
            [100 * flops / each / peak for each in whole],
            "% of peak",
            "70 % or more",
        ),
        of_repetitions(
            "all 32 images at once through the network, over as many as the cache holds",
            [100 * slow / batch_s for slow in at_once],
            "% of the time",
        ),
        of_repetitions("the same", [BATCH / each for each in whole], "images/s"),
        of_repetitions(
            "its noise, schedule, encoding and input", [100 * each / batch_s for each in beside], "% of the time",
            "under 3 %",
        ),
        of_repetitions(
            "its control variates", [100 * each / batch_s for each in of_controls], "% of the time",
            "under 3 % with the line above",
        ),
        of_repetitions(
            "denoisers of the control variates, 10,000 images", [100 * each / pass_s for each in fitted],
            "% of one pass",
        ),
        of_repetitions("the exact parts of 10,000 images", [100 * each / pass_s for each in exact], "% of one pass"),
    ]  # fmt: skip


def _gain() -> list[Figure]:
    """Return how many times fewer network calls fitted times and control need than neither, on the demo's model."""
    if not (DEMO / "run" / "checkpoints").exists():
        return []
    config = run_dir.read_config(str(DEMO / "run"))
    restored = restore_ema(str(DEMO / "run"), config)
    split = load_split(str(DEMO / "data"), "test")
    runner = make_runner(config, restored.params, split, make_mesh())
    model, factors = VDM.from_config(config), []
    for seed in range(REPEATS):
        evaluation = replace(EvalConfig(passes=16), seed=seed)
        costs = []
        for how in (("uniform", "none"), ("importance", "linear_and_levels")):
            bound = make_bound(model, runner, seed, *how)
            measured = measure(bound, evaluation, "test")
            stderr = spread_of(bound, measured.estimates + bound.exact).monte_carlo_stderr
            costs.append(stderr**2 * (measured.estimates.size + bound.pilot_calls))
        factors.append(costs[0] / costs[1])
    return [
        of_repetitions(
            "network calls, plain systematic sampling over what is fitted, the demo's model", factors, "x", "4 aimed at"
        )
    ]
