"""The errors of a mean over images and passes: what is random in it, apart from what only looks so.

An estimate is a trend over its position in the systematic sample, plus an effect of its image, plus a rest. The
positions of a pass cover [0, 1) evenly and every image counts equally, so trend and effects average out of the
mean; the rest makes the Monte Carlo error, and the effects make the error of the test set.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

_TURNS = 10
_LARGEST_NUMBER_OF_GROUPS = 64
_SMALLEST_GROUP = 16


@dataclass(frozen=True)
class Spread:
    """Where the differences between the estimates of a [passes, n] table come from."""

    passes: int
    num_images: int
    rest_variance: float
    """Variance of one estimate about trend and effect."""
    trend_rise: float
    """Trend at position 1 less that at position 0; 0 where no positions were drawn."""
    image_variance: float
    """Variance of the effects of the images, without what the rest adds to it; 0 for a single image."""

    @property
    def monte_carlo_stderr(self) -> float:
        """Standard error of the mean, given the images.

        The rest divided by the number of estimates, and the offset u of the grid of positions, which moves the mean
        of a pass by (u - 1/2) (trend(1) - trend(0)) / n with u uniform.
        """
        of_rest = self.rest_variance / (self.passes * self.num_images)
        of_offset = (self.trend_rise / self.num_images) ** 2 / 12.0 / self.passes
        return float(np.sqrt(of_rest + of_offset))

    @property
    def test_set_stderr(self) -> float:
        """Standard error of the mean over images that are a draw from all images, the Monte Carlo error left out."""
        return float(np.sqrt(self.image_variance / self.num_images))


def spread(total: Shaped[np.ndarray, "passes n"], positions: Float[np.ndarray, "passes n"] | None = None) -> Spread:
    """Return the spread of a table of estimates.

    The trend is a line through the means of up to 64 groups of neighbours; trend and effects are fitted in turns.

    Args:
      total: one estimate per pass and image; at least two passes.
      positions: where each estimate stands in the systematic sample of its pass, in [0, 1); None if they are
        independent.
    """
    passes, num_images = total.shape
    trend, rise = np.zeros_like(total), 0.0
    if positions is not None:
        order = np.argsort(positions, axis=None)
        groups = np.array_split(order, max(1, min(_LARGEST_NUMBER_OF_GROUPS, total.size // _SMALLEST_GROUP)))
        centres = np.array([positions.reshape(-1)[group].mean() for group in groups])
        effects = np.zeros(num_images)
        for _ in range(_TURNS):
            without_effects = (total - effects).reshape(-1)
            means = np.array([without_effects[group].mean() for group in groups])
            trend = np.interp(positions, centres, means)
            effects = (total - trend).mean(axis=0)
            rise = float(means[-1] - means[0])
    without_trend = total - trend
    effects = without_trend.mean(axis=0)
    rest_variance = float(np.square(without_trend - effects).sum() / (num_images * (passes - 1)))
    image_variance = 0.0
    if num_images > 1:
        image_variance = max(0.0, float(effects.var(ddof=1)) - rest_variance / passes)
    return Spread(passes, num_images, rest_variance, rise, image_variance)


def between_passes_stderr(total: Shaped[np.ndarray, "passes n"]) -> float:
    """Return the standard error of the mean from the spread of the means of the passes."""
    return float(total.mean(axis=1).std(ddof=1) / np.sqrt(len(total)))
