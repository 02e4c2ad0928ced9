"""Which class each image of a picture is told: of samples, of images that are given, and of pairs of them."""

from typing import Literal

import numpy as np
from jaxtyping import Integer

from vdm_lib.config import ModelConfig
from vdm_lib.errors import ConfigError
from vdm_lib.labels import Wanted, labels_to_draw
from vdm_lib.types import Labels

Told = Wanted | Literal["data"] | None
"""`--class`: one class, all in turn, with `data` each image's own, or none."""


def check_class(model: ModelConfig, told: Told, guidance: float) -> None:
    """Raise ConfigError for a class that the model does not have, or guidance that it cannot give."""
    labels_to_draw(model, 0 if told == "data" else told, 1, guidance)


def of_samples(model: ModelConfig, told: Told, num: int, guidance: float) -> Labels | None:
    """Return the class of each of `num` samples, None if none is told.

    Raises:
      ConfigError: as `labels_to_draw`, or `data`, which samples have none of.
    """
    if told == "data":
        raise ConfigError("--class data is for given images, samples have no class of their own: say one class, or all")
    return labels_to_draw(model, told, num, guidance)


def of_given(model: ModelConfig, told: Told, own: Integer[np.ndarray, " n"], guidance: float = 0.0) -> Labels | None:
    """Return the class of each given image, None if none is told; a model that never went without is told their own.

    Raises:
      ConfigError: as `labels_to_draw`, or `all`, which given images are not.
    """
    if told == "all":
        raise ConfigError("--class all is for samples: of images of --data say data, each one's own, or one class")
    if told is None and model.needs_labels:
        told = "data"
    return labels_to_draw(model, own if told == "data" else told, len(own), guidance)


def of_pairs(labels: Labels | None) -> Labels | None:
    """Return the class of each pair of neighbours.

    Raises:
      ConfigError: a pair of two classes, between which there is none.
    """
    if labels is None:
        return None
    first, second = np.asarray(labels[::2]), np.asarray(labels[1::2])
    for pair in np.flatnonzero(first != second):
        raise ConfigError(
            f"an interpolation is within one class, pair {pair} is of {first[pair]} and {second[pair]}: name images "
            "of one class with --images, or give one number as --class"
        )
    return labels[::2]


def names(labels: Labels | None) -> tuple[str, ...]:
    """Return what stands beside each row of a picture, nothing where no class is told."""
    return () if labels is None else tuple(f"class {label}" for label in np.asarray(labels))
