"""What every bench shares: a figure with its spread, wall times, the rate of a matrix product, a network to time."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vdm_lib.model import VDM
from vdm_lib.types import Params

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a bench, made by one of the three functions below.

    Attributes:
        name: what was measured, and on what.
        value: the median of the repetitions, an estimate, or a number without a spread.
        unit: such as `s`, `images/s`, `% of the step`, `x`.
        least: the least repetition, or the estimate less its standard error; None without a spread.
        greatest: the greatest repetition, or the estimate and its standard error; None without a spread.
        repetitions: how often it was measured; None of an estimate and of a number without a spread.
        bar: what the project asks of it, as text; empty if nothing.
    """

    name: str
    value: float
    unit: str
    least: float | None = None
    greatest: float | None = None
    repetitions: int | None = None
    bar: str = ""


def of_repetitions(name: str, values: Sequence[float], unit: str, bar: str = "") -> Figure:
    """Return the median of several measurements with their spread.

    Raises:
      ValueError: fewer than `REPEATS` measurements, which is no median to rely on.
    """
    if len(values) < REPEATS:
        raise ValueError(f"{name}: {len(values)} repetitions, at least {REPEATS} are asked for")
    return Figure(
        name=name, value=statistics.median(values), unit=unit, least=min(values), greatest=max(values),
        repetitions=len(values), bar=bar,
    )  # fmt: skip


def estimate(name: str, value: float, stderr: float, unit: str) -> Figure:
    """Return a number with its standard error in the place of a spread."""
    return Figure(name=name, value=value, unit=unit, least=value - stderr, greatest=value + stderr)


def single(name: str, value: float, unit: str, bar: str = "") -> Figure:
    """Return a number without a spread: it comes out the same each time, as bytes and seeded latents do."""
    return Figure(name=name, value=value, unit=unit, bar=bar)


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the wall time of each call of `work`; arrays that it returns are waited for."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - started)
    return times


def later_seconds(work: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return what `seconds` does after one call that does not count, as it compiles or takes memory."""
    work()
    return seconds(work, repeats)


def matmul_seconds(size: int = 2048, repeats: int = REPEATS) -> list[float]:
    """Return the wall time of each float32 product of two square matrices by XLA."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return later_seconds(lambda: product(a).block_until_ready(), repeats)


def matmul_peak_flops(size: int = 2048, repeats: int = REPEATS) -> float:
    """Return the best float32 FLOP/s of a square matrix product by XLA: the limit that networks are held against."""
    return 2 * size**3 / min(matmul_seconds(size, repeats))


def random_params(model: VDM, rng: np.random.Generator) -> Params:
    """Return parameters away from the zeros that a fresh network ends in, made without compiling its initialisation."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32)), shapes)
