"""Sampling: what a step costs beside the network alone, and how fast the solvers without noise converge."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import configs
from benchmarks.figures import REPEATS, Figure, of_repetitions, random_params, seconds, single
from pipelines import run_dir
from vdm_lib import sampling
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.samplers.sampler import Sampler
from vdm_lib.types import Latents, Params

BATCH = 8
DEMO = Path("demo")
NUM_IMAGES, STEPS, LIMIT_STEPS = 64, (10, 25, 50, 100, 250), 1000


def figures() -> Iterator[Figure]:
    """Yield the cost of a step of the `cifar10` model over its network's, then the errors on the demo's."""
    yield from _beside_the_network()
    if (DEMO / "run" / "checkpoints").exists():
        yield from _quality()


def _beside_the_network() -> Iterator[Figure]:
    config = configs.load("cifar10")
    model, rng = VDM.from_config(config), np.random.default_rng(0)
    params = random_params(model, rng)
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
    for round_ in range(REPEATS + 1):
        for name, work in works.items():
            (taken,) = seconds(lambda work=work, name=name: work(*arguments[name]), 1)
            if round_ > 0:
                times[name].append(taken)
    for solver in ("ancestral", "dpm"):
        ratios = [100 * ours / bare for ours, bare in zip(times[solver], times["network"], strict=True)]
        yield of_repetitions(
            f"a step of {solver}, cifar10, batch {BATCH}, over the network alone", ratios, "%", "at most 110 %"
        )
    yield of_repetitions("the same", [BATCH / each for each in times["dpm"]], "images x steps/s")


def _quality() -> Iterator[Figure]:
    """Yield how far the latents z_0 are from where the flow leads, from the same noise."""
    config = run_dir.read_config(str(DEMO / "run"))
    params, model = restore_ema(str(DEMO / "run"), config).params, VDM.from_config(config)
    limit = np.asarray(jax.jit(_denoising(model, Sampler("dpm")))(params, LIMIT_STEPS))
    for solver in ("ddim", "dpm"):
        denoise = jax.jit(_denoising(model, Sampler(solver)))
        for num_steps in STEPS:
            distance = np.sqrt(np.mean(np.square(np.asarray(denoise(params, num_steps)) - limit)))
            name = f"{solver}, {num_steps} steps, demo's model: RMS distance of z_0 to {LIMIT_STEPS} steps of dpm"
            yield single(name, float(distance), "of 2 from black to white")


def _denoising(model: VDM, sampler: Sampler) -> Callable[[Params, int], jax.Array]:
    """Return a function of the parameters and the number of steps, so that one program serves all numbers."""

    def denoise(params: Params, num_steps: int) -> jax.Array:
        z_1, key_steps = sampling.start(model, jax.random.key(0), NUM_IMAGES)
        return sampling.denoise(model, params, sampler, z_1, key_steps, num_steps)

    return denoise
