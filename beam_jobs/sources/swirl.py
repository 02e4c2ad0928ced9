"""Points of the plane on a spiral, as images of one pixel with two channels: the smallest case of everything."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from vdm_lib.files.records import Record

NUM_LEVELS = 256
TURNS = 1.5
"""Of the spiral, from its centre outwards."""
RADIUS = 0.8
"""Of its outer end, in a plane from -1 to 1."""
DEVIATION = 0.03
"""Of the normal noise of both coordinates."""


def on_spiral(u: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Return the points of the spiral, without noise, whose share u in [0, 1) of it lies further in."""
    turn = np.sqrt(u)
    angle = 2.0 * np.pi * TURNS * turn
    return RADIUS * turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@lru_cache(maxsize=2)
def _points(split: str, num_points: int) -> UInt8[np.ndarray, "n 2"]:
    uniform = np.random.Generator(np.random.Philox(key=[("train", "test").index(split), 0])).random((num_points, 3))
    # Normals of uniforms by Box and Muller: NumPy does not promise that its own normals stay the same.
    length, angle = np.sqrt(-2.0 * np.log1p(-uniform[:, 1])), 2.0 * np.pi * uniform[:, 2]
    noise = DEVIATION * length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    places = np.floor((on_spiral(uniform[:, 0]) + noise + 1.0) * (NUM_LEVELS / 2))
    return np.clip(places, 0, NUM_LEVELS - 1).astype(np.uint8)


@dataclass(frozen=True)
class Swirl:
    """20,000 noisy points of a spiral; channel 0 of the one pixel is x, channel 1 is y, from -1 to 1 in 256 levels."""

    name: str = "swirl"
    image_shape: tuple[int, int, int] = (1, 1, 2)
    num_levels: int = NUM_LEVELS
    num_classes: int = 1
    class_names: tuple[str, ...] = ("swirl",)
    description: str = "points of a spiral of one and a half turns with normal noise, drawn by NumPy's Philox"
    data_version: str = "1"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 16_000, "test": 4_000})

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1."""
        points = _points(split, self.splits[split])
        for index in range(start, stop):
            yield Record(image=points[index].reshape(1, 1, 2), label=0, index=index)
