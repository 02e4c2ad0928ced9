"""The T + 1 noise levels of a chain, each with a grid of its own on which its latents lie.

With alpha, sigma and gamma = -log SNR of `diffusion`, for neighbours s < t, and c = 1 - exp(gamma_s - gamma_t):

    (1)  q(z_0 | x)   = N(alpha_0 x, sigma_0^2)
    (2)  q(z_t | z_s) = N((alpha_t / alpha_s) z_s, sigma_t^2 c)
    (3)  p(z_s | z_t) = N((alpha_s / alpha_t) (z_t - sigma_t c eps_hat), sigma_s^2 c)
    (4)  p(z_1)       = N(0, 1)

A level's grid divides the least deviation that its latent is drawn or predicted with into `bins_per_std` parts. Both
sides compute all of this in float64, with operations whose results IEEE 754 fixes but for exp and expm1.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32, Shaped

from vdm_lib.compression.stack import Spread
from vdm_lib.errors import ConfigError


@dataclass(frozen=True)
class Rung:
    """One noise level; `above` is the next noisier one, `below` the next cleaner one."""

    gamma: float
    alpha: float
    sigma: float
    width: float
    """Of a bin of the grid."""
    drawn: Spread
    """(2), or (1) on the lowest rung."""
    predicted: Spread
    """(3), or (4) on the highest rung."""
    c_above: float
    """c between this level and the next noisier one; 0 on the highest rung."""


@dataclass(frozen=True)
class Ladder:
    """All levels, the least noise first."""

    rungs: tuple[Rung, ...]

    @classmethod
    def of(cls, gammas: Float[np.ndarray, " n"], bins_per_std: int) -> "Ladder":
        """Return the ladder of T + 1 gammas.

        Raises:
          ConfigError: they do not rise, or there is no step.
        """
        values = [float(gamma) for gamma in gammas]
        cs = [-math.expm1(s - t) for s, t in itertools.pairwise(values)]
        if len(values) < 2 or min(cs) <= 0.0:
            raise ConfigError("compression needs at least one step and a schedule that rises with the time")
        rungs: list[Rung] = []
        for i, gamma in enumerate(values):
            variance = 1.0 / (1.0 + math.exp(-gamma))
            sigma = math.sqrt(variance)
            drawn = sigma * math.sqrt(cs[i - 1]) if i else sigma
            predicted = sigma * math.sqrt(cs[i]) if i < len(cs) else 1.0
            width = min(drawn, predicted) / bins_per_std
            rungs.append(
                Rung(
                    gamma=gamma,
                    alpha=math.sqrt(1.0 / (1.0 + math.exp(gamma))),
                    sigma=sigma,
                    width=width,
                    drawn=Spread(drawn / width),
                    predicted=Spread(predicted / width),
                    c_above=cs[i] if i < len(cs) else 0.0,
                )
            )
        return cls(tuple(rungs))

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.rungs) - 1

    def latents(self, i: int, points: Int32[np.ndarray, " *n"]) -> Float[np.ndarray, " *n"]:
        """Return the latents of grid points of level i, float64."""
        return points * self.rungs[i].width

    def drawn_mean(self, i: int, points: Int32[np.ndarray, " *n"]) -> Float[np.ndarray, " *n"]:
        """Return the mean of (2) in bins of level i, from grid points of level i - 1."""
        here, below = self.rungs[i], self.rungs[i - 1]
        return points * (here.alpha / below.alpha * below.width / here.width)

    def first_mean(self, x: Float[np.ndarray, " *n"]) -> Float[np.ndarray, " *n"]:
        """Return the mean of (1) in bins of the lowest level, from encoded pixels."""
        return x * (self.rungs[0].alpha / self.rungs[0].width)

    def predicted_mean(
        self, i: int, z_above: Float[np.ndarray, " *n"], eps_hat: Shaped[np.ndarray, " *n"]
    ) -> Float[np.ndarray, " *n"]:
        """Return the mean of (3) in bins of level i, from the latents of level i + 1 and what the network says."""
        here, above = self.rungs[i], self.rungs[i + 1]
        noise = eps_hat.astype(np.float64) * (above.sigma * here.c_above)
        return (z_above - noise) * (here.alpha / above.alpha / here.width)
