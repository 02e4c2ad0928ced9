"""The data set that comes with the project."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from vdm_lib.files.records import Record


@lru_cache(maxsize=1)
def _digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_digits  # 2 s to import: only whoever reads the digits pays

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    is_test = np.arange(len(images)) % 5 == 4
    return {
        "train": (images[~is_test], digits.target[~is_test]),
        "test": (images[is_test], digits.target[is_test]),
    }


@dataclass(frozen=True)
class Digits:
    """The 1,797 handwritten digits that come with scikit-learn: 8x8 pixels, 17 grey levels.

    Every image whose place in scikit-learn's order is 4 modulo 5 is a test image.
    """

    name: str = "digits"
    image_shape: tuple[int, int, int] = (8, 8, 1)
    num_levels: int = 17
    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    description: str = "sklearn.datasets.load_digits; test is every image with index % 5 == 4"
    data_version: str = "UCI optical digits (1998), test part"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 1438, "test": 359})

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1."""
        images, labels = _digits()[split]
        for index in range(start, stop):
            yield Record(image=images[index], label=int(labels[index]), index=index)
