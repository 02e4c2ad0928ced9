"""Which images make up the batch of a step.

A batch is a pure function of (seed, step): a resumed run, or a run on another number of hosts, sees the same
images, and nothing of the input pipeline needs to be saved.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64


@lru_cache(maxsize=4)
def _permutation(num_images: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    # Sorting the raw output of a bit generator: NumPy promises that stream for ever, but not that of
    # Generator.permutation, and a resumed run may have a newer NumPy.
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_images)
    order = np.argsort(bits, kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class Batches:
    """Which images each step sees: random epochs laid end to end and cut into batches.

    A batch may run across the border of two epochs, so each epoch shows every image exactly once whatever the
    batch size, which may exceed the number of images.

    Attributes:
        num_images: images of the split.
        batch_size: images of one step, over all devices and hosts together.
        seed: seed of the order, not negative.
    """

    num_images: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Raise ValueError for counts below one and negative seeds."""
        if self.num_images < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(f"num_images and batch_size must be positive and seed not negative, got {self}")

    def indices_at(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return the indices of the images of a step, counted from 0: int64 [batch_size].

        Raises:
            ValueError: step is negative.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.num_images)
            taken = _permutation(self.num_images, self.seed, epoch)[offset : offset + stop - start]
            parts.append(taken)
            start += len(taken)
        return np.concatenate(parts)
