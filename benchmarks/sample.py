"""Sampling: what a step costs beside the network alone, and how few steps each solver needs on the demo's model."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import SVC

import configs
from benchmarks.figures import Figure, of_repetitions, seconds
from pipelines import run_dir
from vdm_lib import sampling
from vdm_lib.data import load_split
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.sampler import Sampler
from vdm_lib.types import Latents, Params

BATCH = 8
DEMO = Path("demo")
NUM_IMAGES = 256
STEPS = {"ancestral": (10, 25, 50, 100, 250, 1000), "ddim": (10, 25, 50, 100), "dpm": (5, 10, 25, 50)}


def figures() -> Iterator[Figure]:
    """Yield the cost of a step of the `cifar10` model over its network's, then the curves of the demo's model."""
    yield from _beside_the_network()
    if (DEMO / "run" / "checkpoints").exists():
        yield from _quality()


def _beside_the_network() -> Iterator[Figure]:
    config = configs.load("cifar10")
    model, rng = VDM.from_config(config), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32)), shapes)
    z_1, key_steps = jax.jit(lambda: sampling.start(model, jax.random.key(0), BATCH))()

    def network(params: Params, z: Latents) -> Latents:
        return model.eps_hat(params, z, jnp.zeros(BATCH), jnp.zeros(BATCH))

    works = {"network": jax.jit(network).lower(params, z_1).compile()}
    chain, number = sampling.begin(z_1), np.int32(3)
    for solver in ("ancestral", "dpm"):
        step = jax.jit(
            lambda params, chain, i, solver=solver: sampling.advance(
                model, params, Sampler(solver), chain, key_steps, i, 10
            )
        )
        works[solver] = step.lower(params, chain, number).compile()
    arguments = {name: (params, z_1) if name == "network" else (params, chain, number) for name in works}
    times: dict[str, list[float]] = {name: [] for name in works}
    # Turn by turn, as the machine's own speed moves.
    for round_ in range(6):
        for name, work in works.items():
            (taken,) = seconds(lambda work=work, name=name: work(*arguments[name]), 1)
            if round_ > 0:
                times[name].append(taken)
    for solver in ("ancestral", "dpm"):
        ratios = [100 * ours / bare for ours, bare in zip(times[solver], times["network"], strict=True)]
        yield of_repetitions(
            f"a step of {solver}, cifar10, batch {BATCH}, over the network alone", ratios, "%", "at most 110 %"
        )
    yield Figure(name="the same", value=BATCH / statistics.median(times["dpm"]), unit="images x steps/s")


def _quality() -> Iterator[Figure]:
    """Yield how sure a classifier of real digits is of the samples, in the mean; of test images for comparison."""
    config = run_dir.read_config(str(DEMO / "run"))
    params, model = restore_ema(str(DEMO / "run"), config).params, VDM.from_config(config)
    train, test = (load_split(str(DEMO / "data"), name) for name in ("train", "test"))
    flat = train.images.reshape(len(train.images), -1)
    classifier = SVC(probability=True, random_state=0).fit(flat, train.labels)

    def confidence(images: np.ndarray) -> float:
        return float(np.max(classifier.predict_proba(images.reshape(len(images), -1)), axis=1).mean())

    yield Figure(name="classifier's mean confidence, test images", value=100 * confidence(test.images), unit="%")
    for solver, counts in STEPS.items():
        draw = jax.jit(_drawing(model, Sampler(solver)))
        for num_steps in counts:
            images = np.asarray(draw(params, num_steps))
            name = f"the same, {NUM_IMAGES} samples of the demo's model, {solver}, {num_steps} steps"
            yield Figure(name=name, value=100 * confidence(images), unit="%")


def _drawing(model: VDM, sampler: Sampler) -> Callable[[Params, int], jax.Array]:
    """Return a function of the parameters and the number of steps, so that one program serves all numbers."""

    def draw(params: Params, num_steps: int) -> jax.Array:
        z_1, key_steps = sampling.start(model, jax.random.key(0), NUM_IMAGES)
        z_0 = sampling.denoise(model, params, sampler, z_1, key_steps, num_steps)
        return sampling.levels(model, params, z_0, sampler, key_steps)

    return draw
