"""p(x | z_0) as a table of probabilities for every pixel, in NumPy; `likelihood` is the same on the device."""

import numpy as np
from jaxtyping import Float, Integer

from vdm_lib.compression.ladder import Rung


def encoded(levels: Integer[np.ndarray, " *n"], num_levels: int) -> Float[np.ndarray, " *n"]:
    """Return the middles of the bins in [-1, 1], float64."""
    return 2.0 * ((levels + 0.5) / num_levels) - 1.0


def probabilities(z_0: Float[np.ndarray, " n"], lowest: Rung, num_levels: int) -> Float[np.ndarray, "n levels"]:
    """Return p(v | z_0) of every level v, float64: softmax of -(z_0 / alpha_0 - v)^2 / (2 exp(gamma_0))."""
    values = encoded(np.arange(num_levels), num_levels)
    squares = np.square(z_0[:, None] / lowest.alpha - values) * (0.5 * (lowest.alpha / lowest.sigma) ** 2)
    weights = np.exp(squares.min(axis=1, keepdims=True) - squares)
    return weights / weights.sum(axis=1, keepdims=True)
