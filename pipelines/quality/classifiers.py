"""What two classifiers, trained on the train split, say of samples: no weights from elsewhere are needed.

An unconditional sample has no right class. But two classifiers of different kinds agree on what is clearly one, and
disagree on what is none: on real test images their agreement says what can be reached.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from vdm_lib.data import Split
from vdm_lib.errors import MachineError
from vdm_lib.quality import Measured, share


@dataclass(frozen=True)
class Classified:
    """What was said of a set of images."""

    svm: Int64[np.ndarray, " n"]
    neighbours: Int64[np.ndarray, " n"]

    @property
    def agreement(self) -> Measured:
        """Share of the images that both give the same class, with its error."""
        return share(self.svm == self.neighbours)

    def accuracy(self, labels: Int64[np.ndarray, " n"]) -> Measured:
        """Share of the images that the support vector machine gives their class."""
        return share(self.svm == labels)


class Classifiers:
    """A support vector machine and the nearest five neighbours, trained on a split."""

    def __init__(self, train: Split) -> None:
        """Train both.

        Raises:
          MachineError: scikit-learn is not installed.
        """
        try:
            from sklearn.neighbors import KNeighborsClassifier
            from sklearn.svm import SVC
        except ImportError:
            raise MachineError("the classifiers need scikit-learn: pip install scikit-learn") from None
        self._scale = 1.0 / (train.num_levels - 1)
        self._svm = SVC().fit(self._flat(train.images), train.labels)
        self._neighbours = KNeighborsClassifier(5).fit(self._flat(train.images), train.labels)

    def __call__(self, images: UInt8[np.ndarray, "n h w c"]) -> Classified:
        """Return the classes that both give to images."""
        flat = self._flat(images)
        return Classified(self._svm.predict(flat).astype(np.int64), self._neighbours.predict(flat).astype(np.int64))

    def _flat(self, images: UInt8[np.ndarray, "n h w c"]) -> np.ndarray:
        return images.reshape(len(images), -1) * self._scale
