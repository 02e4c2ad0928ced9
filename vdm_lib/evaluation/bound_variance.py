"""The variance of the bound as training estimates it: one image, one uniform time, one draw of the noise.

That is what the schedule changes (App. I.2 of arXiv 2107.00630), and what the paper states as Var(BPD). An evaluation
draws its times from another density q and takes control variates off; the losses that it draws give the plain variance
all the same:

    (1)  Var = E over x, t ~ q, eps of (L(x, t, eps) + recon(x) + prior(x) - bpd)^2 / q(t)

where reconstruction and prior losses are their expectations. Images are a part of what varies: their share is the
variance of the bpd of an image, which no schedule changes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vdm_lib.evaluation.bound import Bound

NUM_RANGES = 20


@dataclass(frozen=True)
class BoundVariance:
    """Variance of one estimate, in squared bits per dimension."""

    variance: float
    stderr: float
    """Standard error of the variance, from the spread of the squares."""
    by_time: tuple[float, ...]
    """The mean of (1) in equal ranges of time; their mean is the variance."""


def bound_variance(bound: Bound, losses: Float[np.ndarray, "passes n"], bpd: float) -> BoundVariance:
    """Return the variance of one estimate, Eq. (1).

    Args:
      bound: the bound that was estimated.
      losses: the diffusion losses that its passes drew, one row each, in bits per dimension.
      bpd: its mean over images and passes.
    """
    times = np.stack([bound.times(k) for k in range(len(losses))])
    squares = np.square(losses + bound.exact - bpd) / bound.density.at(times)
    which = np.minimum((times * NUM_RANGES).astype(int), NUM_RANGES - 1)
    by_time = np.bincount(which.reshape(-1), weights=squares.reshape(-1), minlength=NUM_RANGES) * NUM_RANGES
    return BoundVariance(
        variance=float(squares.mean()),
        stderr=float(squares.std(ddof=1) / np.sqrt(squares.size)),
        by_time=tuple((by_time / squares.size).tolist()),
    )
