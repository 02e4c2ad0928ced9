"""Statistics of the images of a split, made in the same pass that writes them.

Counts of levels and classes are whole numbers that add up in any order, so every runner gives the same statistics;
mean and standard deviation follow from the counts exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Counts over some images of one split.

    Attributes:
        levels: int64 [channels, num_levels], how often each level occurs in each channel.
        classes: int64 [num_classes], images of each class.
    """

    levels: np.ndarray
    classes: np.ndarray

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of images together."""
        return Statistics(self.levels + other.levels, self.classes + other.classes)

    def mean(self) -> np.ndarray:
        """Return the mean of each channel, levels scaled to 0..1: float64 [channels]."""
        return self.levels @ self._scale() / self.levels.sum(axis=1)

    def std(self) -> np.ndarray:
        """Return the standard deviation of each channel over all pixels, levels scaled to 0..1: float64 [channels]."""
        deviation = self._scale() - self.mean()[:, np.newaxis]
        return np.sqrt((self.levels * deviation**2).sum(axis=1) / self.levels.sum(axis=1))

    def _scale(self) -> np.ndarray:
        count = self.levels.shape[1]
        return np.arange(count) / (count - 1)

    def to_json(self) -> dict[str, Any]:
        """Return what `stats.json` says about a split."""
        present = [np.flatnonzero(row) for row in self.levels]
        return {
            "num_images": int(self.classes.sum()),
            "class_counts": self.classes.tolist(),
            "mean": self.mean().tolist(),
            "std": self.std().tolist(),
            "min_level": [int(row[0]) for row in present],
            "max_level": [int(row[-1]) for row in present],
            "level_histogram": self.levels.tolist(),
        }


def statistics_of(images: np.ndarray, labels: np.ndarray, num_levels: int, num_classes: int) -> Statistics:
    """Count levels and classes.

    Args:
        images: uint8 [n, h, w, c], levels below num_levels.
        labels: int64 [n], below num_classes.
        num_levels: values that one channel of one pixel can take.
        num_classes: classes.
    """
    channels = images.shape[-1]
    levels = [np.bincount(images[..., channel].ravel(), minlength=num_levels) for channel in range(channels)]
    return Statistics(np.stack(levels).astype(np.int64), np.bincount(labels, minlength=num_classes).astype(np.int64))


def no_statistics(channels: int, num_levels: int, num_classes: int) -> Statistics:
    """Return the statistics of no image."""
    return Statistics(np.zeros((channels, num_levels), np.int64), np.zeros(num_classes, np.int64))


def drift(first: Statistics, second: Statistics) -> dict[str, Any]:
    """Return how far the images of two splits lie apart.

    The distance of two distributions is half the sum of their absolute differences: 0 if equal, 1 if disjoint.
    """

    def distance(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.abs(left / left.sum() - right / right.sum()).sum() / 2)

    return {
        "mean_difference": (second.mean() - first.mean()).tolist(),
        "std_difference": (second.std() - first.std()).tolist(),
        "level_distance": [distance(*pair) for pair in zip(first.levels, second.levels, strict=True)],
        "class_distance": distance(first.classes, second.classes),
    }
