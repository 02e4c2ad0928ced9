"""How many steps each solver needs until a classifier takes its samples for what they should be.

On the class-conditional digits of docs/sampling.md: `vdm train digits_cond --data data/digits --workdir runs/cond`.
Half an hour on 2 cores. A picture is written beside the run. With each number comes the variance of the samples within
a class, over that of train images: few steps draw what is typical, and is easily given its class.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure, estimate, single
from pipelines import run_dir
from pipelines.quality.classifiers import Classifiers
from vdm_lib import sampling
from vdm_lib.data import load_split
from vdm_lib.model import VDM
from vdm_lib.quality import Measured
from vdm_lib.restore import restore_ema
from vdm_lib.samplers.sampler import Sampler, Solver
from vdm_lib.types import Params

RUN, DATA, PICTURE = Path("runs/cond"), Path("data/digits"), Path("runs/accuracy.png")
NUM_IMAGES = 500
MOST_STEPS: dict[Solver, int] = {"ancestral": 1000, "dpm_sde": 250, "dpm": 250, "ddim": 250}
STEPS = (2, 3, 5, 10, 25, 50, 100, 250, 1000)


def figures() -> Iterator[Figure]:
    """Yield the share of samples that a support vector machine gives their class, and write its curve."""
    if not (RUN / "checkpoints").exists():
        return
    train = load_split(str(DATA), "train")
    classifiers, of_train = Classifiers(train), _variance(train.images, train.labels)
    test = load_split(str(DATA), "test")
    limit = classifiers(test.images).accuracy(test.labels.astype(np.int64))
    yield _figure("test images", limit)
    curves: dict[str, dict[int, Measured]] = {solver: {} for solver in MOST_STEPS}
    for solver, num_steps, images in _samples():
        classes = np.arange(NUM_IMAGES) % 10
        measured = classifiers(images).accuracy(classes)
        curves[solver][num_steps] = measured
        what = f"{NUM_IMAGES} samples by {num_steps} steps of {solver}"
        yield _figure(what, measured)
        spread = _variance(images, classes) / of_train
        yield single(f"{what}: variance within a class", spread, "of train images'")
    _draw(curves, limit)


def _samples() -> Iterator[tuple[Solver, int, np.ndarray]]:
    config = run_dir.read_config(str(RUN))
    params, model = restore_ema(str(RUN), config).params, VDM.from_config(config)
    labels = np.arange(NUM_IMAGES, dtype=np.int32) % config.model.num_classes
    for solver, most in MOST_STEPS.items():
        draw = jax.jit(partial(_draw_images, model, Sampler(solver), labels))
        for num_steps in (steps for steps in STEPS if steps <= most):
            yield solver, num_steps, np.asarray(draw(params, num_steps))


def _draw_images(
    model: VDM, sampler: Sampler, labels: np.ndarray, params: Params, num_steps: int | jax.Array
) -> jax.Array:
    """Return samples of the labels; num_steps is traced, so that one program serves all numbers."""
    z_1, key_steps = sampling.start(model, jax.random.key(0), NUM_IMAGES)
    z_0 = sampling.denoise(model, params, sampler, z_1, key_steps, num_steps, jax.numpy.asarray(labels))
    return sampling.levels(model, params, z_0)


def _variance(images: np.ndarray, labels: np.ndarray) -> float:
    """Return the variance of a pixel within a class, in levels squared, the mean over pixels and classes."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    return float(np.mean([flat[labels == label].var(axis=0, ddof=1).mean() for label in np.unique(labels)]))


def _figure(what: str, share: Measured) -> Figure:
    name = f"digits_cond, {what}: given their class by a classifier of the train split"
    return estimate(name, 100 * share.value, 100 * share.stderr, "%")


def _draw(curves: dict[str, dict[int, Measured]], limit: Measured) -> None:
    picture = Picture(figsize=(6, 3.6), layout="constrained")
    axes = picture.subplots()
    for solver, curve in curves.items():
        values = [100 * each.value for each in curve.values()]
        errors = [100 * each.stderr for each in curve.values()]
        axes.errorbar(list(curve), values, errors, label=solver, marker="o", markersize=3, capsize=2)
    axes.axhline(100 * limit.value, color="grey", linestyle=":", label="test images")
    axes.set(xscale="log", xlabel="steps", ylabel="given their class, %")
    axes.set_xticks(STEPS, [f"{steps:,}" for steps in STEPS])
    axes.minorticks_off()
    picture.legend(loc="outside upper center", ncols=len(curves) + 1, frameon=False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(PICTURE, dpi=110)
