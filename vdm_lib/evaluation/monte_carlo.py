"""The errors of a mean over images and passes: what is random in it, apart from what only looks so.

An estimate is a trend over its position in the systematic sample, plus an effect of its image, plus a rest. The
positions of a pass cover [0, 1) evenly and every image counts equally, so trend and effects average out of the
mean; the rest makes the Monte Carlo error, and the effects make the error of the test set.

Where the positions of one image over the passes are even as well, what its own trend differs from the common one
averages out too, and is no part of the rest.
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
    """Variance of one estimate about trend and effect, and about the image's own trend if positions are even."""
    trend_rise: float
    """Trend at position 1 less that at position 0; 0 where no positions were drawn."""
    image_variance: float
    """Variance of the effects of the images, without what the rest adds to it; 0 for a single image."""
    own_trend_variance: float = 0.0
    """Variance that the images' own trends leave in the mean of one image's estimates: their passes are finite."""

    @property
    def monte_carlo_stderr(self) -> float:
        """Standard error of the mean, given the images.

        The rest divided by the number of estimates, and the offset u of the grid of positions, which moves the mean
        of a pass by (u - 1/2) (trend(1) - trend(0)) / n with u uniform; the same of each image's own grid.
        """
        of_rest = (self.rest_variance / self.passes + self.own_trend_variance) / self.num_images
        of_offset = (self.trend_rise / self.num_images) ** 2 / 12.0 / self.passes
        return float(np.sqrt(of_rest + of_offset))

    @property
    def test_set_stderr(self) -> float:
        """Standard error of the mean over images that are a draw from all images, the Monte Carlo error left out."""
        return float(np.sqrt(self.image_variance / self.num_images))


def spread(
    total: Shaped[np.ndarray, "passes n"],
    positions: Float[np.ndarray, "passes n"] | None = None,
    *,
    even_by_image: bool = False,
) -> Spread:
    """Return the spread of a table of estimates.

    The trend is a line through the means of up to 64 groups of neighbours; trend and effects are fitted in turns.

    Args:
      total: one estimate per pass and image; at least two passes.
      positions: where each estimate stands in the systematic sample of its pass, in [0, 1); None if they are
        independent.
      even_by_image: the positions of each image over the passes are spread evenly (`time_density.even_positions`).
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
    own_trend = 0.0
    if even_by_image and positions is not None and passes > 2:
        rest_variance, own_trend = _about_own_trends(without_trend, positions)
    image_variance = 0.0
    if num_images > 1:
        image_variance = max(0.0, float(effects.var(ddof=1)) - rest_variance / passes - own_trend)
    return Spread(passes, num_images, rest_variance, rise, image_variance, own_trend)


def _about_own_trends(
    values: Shaped[np.ndarray, "passes n"], positions: Float[np.ndarray, "passes n"]
) -> tuple[float, float]:
    """Return the variance of one value about the trend of its image, and what the trends leave in an image's mean.

    The first from each value and its two neighbours, which a line through them leaves no part of. A grid of positions
    misses the mean of a trend by the distance of their mean from 1/2 times the rise of the trend.
    """
    order = np.argsort(positions, axis=0)
    y, x = np.take_along_axis(values, order, axis=0), np.take_along_axis(positions, order, axis=0)
    before, after = x[1:-1] - x[:-2], x[2:] - x[1:-1]
    bend = after * y[:-2] - (before + after) * y[1:-1] + before * y[2:]
    variance = float(np.mean(np.square(bend) / (after**2 + (before + after) ** 2 + before**2)))
    width = x[-1] - x[0]
    squared_rise = float(np.mean((np.square(y[-1] - y[0]) - 2.0 * variance) / width**2))
    return variance, max(0.0, squared_rise) * float(np.var(positions.mean(axis=0)))


def between_passes_stderr(total: Shaped[np.ndarray, "passes n"]) -> float:
    """Return the standard error of the mean from the spread of the means of the passes."""
    return float(total.mean(axis=1).std(ddof=1) / np.sqrt(len(total)))
