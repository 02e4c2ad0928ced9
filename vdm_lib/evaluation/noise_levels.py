"""The diffusion loss by noise level, and the rate and distortion of the image that is told down to each level.

The bits of the noise levels above gamma, with the prior loss, tell z at gamma; from it the network sees the image

    x_hat = (z - sigma eps_hat) / alpha,  x_hat - x = exp(gamma / 2) (eps - eps_hat)

whose error is the distortion.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_lib.evaluation.bound import Bound
from vdm_lib.report import NoiseLevel

NUM_LEVELS = 20


def noise_levels(bound: Bound, diff: Float[np.ndarray, "passes n"]) -> tuple[NoiseLevel, ...]:
    """Return the diffusion loss in equal ranges of gamma between its end points, least noise first.

    The error of a range takes all differences between the estimates inside it as random: an image that is there
    in one pass is elsewhere in the next.

    Args:
      bound: the bound that was estimated.
      diff: what its passes returned, one row each, in bits per dimension.
    """
    times = np.stack([bound.times(k) for k in range(len(diff))])
    weights = 1.0 / bound.density.at(times)
    found = bound.model.gamma_and_factor(bound.runner.params, jnp.asarray(times.reshape(-1)))
    gamma, factor = (np.asarray(each, np.float64).reshape(times.shape) for each in found)
    num_dims, num_levels = bound.model.data.num_dims, bound.model.data.num_levels
    squared_error = diff / weights * num_dims * np.log(2.0) / factor
    distortion = np.exp(gamma) * squared_error / num_dims * (num_levels / 2.0) ** 2
    gamma_0, gamma_1 = (float(bound.model.gamma(bound.runner.params, jnp.asarray(t))) for t in (0.0, 1.0))
    edges = np.linspace(gamma_0, gamma_1, NUM_LEVELS + 1)
    which = np.clip(np.searchsorted(edges, gamma, side="left") - 1, 0, NUM_LEVELS - 1)
    levels: list[NoiseLevel] = []
    rate = float(bound.latent.mean())
    for level in reversed(range(NUM_LEVELS)):
        here = which == level
        values, count = diff[here], int(here.sum())
        part = float(values.sum() / diff.size)
        rate += part
        levels.append(
            NoiseLevel(
                gamma_from=float(edges[level]),
                gamma_to=float(edges[level + 1]),
                bpd=part,
                bpd_stderr=float(values.std(ddof=1) * np.sqrt(count) / diff.size) if count > 1 else 0.0,
                rate_bpd=rate,
                distortion_rmse=_rmse(distortion[here], weights[here]),
            )
        )
    return tuple(reversed(levels))


def _rmse(squared: np.ndarray, weights: np.ndarray) -> float | None:
    # A control variate may make single estimates negative.
    return float(np.sqrt(max(0.0, np.average(squared, weights=weights)))) if squared.size else None
