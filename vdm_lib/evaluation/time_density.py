"""Times of an evaluation: a systematic sample over the whole split, drawn from a density fitted to the checkpoint.

The diffusion loss is an integral of L(t) over uniform t. With times of density q, L(t) / q(t) is unbiased for every
q > 0 (importance sampling); its variance is least for q proportional to the standard deviation of L(t) over images
and noise. The density is linear between equally spaced knots: a step would put a step into L / q, which a systematic
sample integrates badly.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, Shaped

_FLOOR = 0.1
"""Weight of the uniform density in every mixture: no estimate is ever multiplied by more than its inverse."""
_ORDER = 2**32
"""Stands where the index of a pass stands otherwise."""
_LARGEST_NUMBER_OF_BINS = 32
_DRAWS_PER_BIN = 16
_LEAST_GAIN = 1.1
"""Predicted gain below which times stay uniform: a pilot sees small gains where there are none."""


def positions(seed: int, pass_index: int, num_images: int) -> Float[np.ndarray, " n"]:
    """Return the positions of one pass in [0, 1), float64: each of n equal strata is hit by exactly one image.

    They are (u + pi(i) / n) mod 1 with one offset u and one permutation pi per pass, functions of the seed, the pass
    and n alone.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, pass_index]))
    offset = generator.random()
    return np.mod(offset + _random_order(generator, num_images) / num_images, 1.0)


def even_positions(seed: int, pass_index: int, num_images: int) -> Float[np.ndarray, " n"]:
    """Return the positions of one pass such that those of one image over the passes are spread evenly as well.

    They are (v_k + (pi(i) + u_k) / n) mod 1: the order pi is the same in all passes, each pass has an offset u_k of
    its own, and v_k = 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput) moves all images on together. What the trend of one
    image over time has of its own then averages out over the passes, as the common trend does over the images.
    """
    order = _random_order(np.random.Generator(np.random.Philox(key=[seed, _ORDER])), num_images)
    offset = np.random.Generator(np.random.Philox(key=[seed, pass_index])).random()
    return np.mod(_van_der_corput(pass_index) + (order + offset) / num_images, 1.0)


def _random_order(generator: np.random.Generator, num_images: int) -> Integer[np.ndarray, " n"]:
    # Ranks of raw draws: NumPy does not promise that `permutation` stays the same across its versions.
    return np.argsort(np.argsort(generator.random(num_images), kind="stable"), kind="stable")


def _van_der_corput(index: int) -> float:
    """Return the bits of an index mirrored at the point."""
    return sum((((index >> bit) & 1) / 2.0 ** (bit + 1) for bit in range(index.bit_length())), 0.0)


@dataclass(frozen=True)
class TimeDensity:
    """A density on [0, 1], linear between equally spaced knots; without knots it is uniform."""

    knots: tuple[float, ...] = ()

    def times(self, positions: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Return the times in [0, 1) below which the density has the mass `positions`, float32."""
        if not self.knots:
            return _float32_below_one(positions)
        values = np.asarray(self.knots)
        width = 1.0 / (len(values) - 1)
        mass = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2.0 * width)])
        mass /= mass[-1]
        cell = np.clip(np.searchsorted(mass, positions, side="right") - 1, 0, len(values) - 2)
        left, slope = values[cell], (values[cell + 1] - values[cell]) / width
        rest = positions - mass[cell]
        # The root of left x + slope x^2 / 2 = rest, in the form that also holds for slope 0.
        offset = 2.0 * rest / (left + np.sqrt(np.maximum(left**2 + 2.0 * slope * rest, 0.0)))
        return _float32_below_one((cell + np.clip(offset / width, 0.0, 1.0)) * width)

    def at(self, times: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Return the density at times, float64."""
        if not self.knots:
            return np.ones(times.shape)
        return np.interp(np.asarray(times, np.float64), np.linspace(0.0, 1.0, len(self.knots)), self.knots)


def mixture(densities: list[TimeDensity]) -> TimeDensity:
    """Return the mean of several densities: one that suits several checkpoints."""
    num_knots = max(len(density.knots) for density in densities)
    if not num_knots:
        return TimeDensity()
    grid = np.linspace(0.0, 1.0, num_knots)
    return _normalised(np.mean([density.at(grid) for density in densities], axis=0))


def pilot_size(num_images: int) -> int:
    """Return how many images a pilot draws: an eighth of the split, at least 256, at most 1,024 or all of them."""
    return min(int(np.clip(num_images // 8, 256, 1024)), num_images)


def fit(times: Float[np.ndarray, " m"], losses: Shaped[np.ndarray, " m"]) -> TimeDensity:
    """Return the density for a checkpoint whose diffusion losses at evenly spread times are given.

    The standard deviation in each bin of time is that about a line, smoothed over neighbours, and mixed with a
    uniform floor. Where little is to be gained, and for few draws, the density is uniform.
    """
    groups = bins(times)
    if len(groups) < 2:
        return TimeDensity()
    centres = [float(times[group].mean()) for group in groups]
    rests = [about_line(times[group], losses[group]) for group in groups]
    smooth = smoothed(np.asarray([np.sqrt(np.square(rest).sum() / (len(rest) - 2)) for rest in rests]))
    if not np.all(np.isfinite(smooth)) or smooth.mean() <= 0.0:
        return TimeDensity()
    grid = np.linspace(0.0, 1.0, len(groups) + 1)
    deviation = np.interp(grid, centres, smooth)
    density = _normalised((1.0 - _FLOOR) * deviation / deviation.mean() + _FLOOR)
    gain = np.mean(deviation**2) / np.mean(deviation**2 / np.asarray(density.knots))
    return density if gain >= _LEAST_GAIN else TimeDensity()


def bins(times: Float[np.ndarray, " m"]) -> list[np.ndarray]:
    """Return the draws of a pilot in bins of neighbours in time, up to 32 of at least 16 draws; one if they are few."""
    order = np.argsort(times, kind="stable")
    return np.array_split(order, max(1, min(_LARGEST_NUMBER_OF_BINS, len(times) // _DRAWS_PER_BIN)))


def about_line(times: Float[np.ndarray, " b"], values: Shaped[np.ndarray, "b ..."]) -> Shaped[np.ndarray, "b ..."]:
    """Return what is left of values after a line over time: two degrees of freedom less than there are values."""
    t = np.asarray(times, np.float64)
    design = np.stack([np.ones_like(t), t - t.mean()], axis=1)
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def smoothed(values: Shaped[np.ndarray, "bins ..."]) -> Float[np.ndarray, "bins ..."]:
    """Return each value averaged with half of its neighbours."""
    padded = np.concatenate([values[:1], values, values[-1:]]).astype(np.float64)
    return (padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0


def _normalised(values: Float[np.ndarray, " knots"]) -> TimeDensity:
    mass = np.mean((values[1:] + values[:-1]) / 2.0)
    return TimeDensity(tuple(float(value) for value in values / mass))


def _float32_below_one(times: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    # Rounding to float32 may reach 1.0, which is outside the range.
    return np.minimum(times.astype(np.float32), np.float32(1.0) - np.finfo(np.float32).epsneg)
