"""Class labels: 0 to K - 1 of K classes, and K where none is told.

A model learns to do without a label by training on some images whose label is withheld (Ho and Salimans,
arXiv 2207.12598). Without classes, model.num_classes = 0, there are no labels at all.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Integer, Shaped

from vdm_lib.config import Config, ModelConfig
from vdm_lib.errors import ConfigError
from vdm_lib.types import Key, Labels

Wanted = int | Literal["all"] | Sequence[int] | Shaped[np.ndarray, "..."]
"""One class for all images, all classes in turn, or one class for each image."""


def no_labels(model: ModelConfig, num_images: int) -> Labels:
    """Return what stands for no label, int32 [num_images]."""
    return jnp.full(num_images, model.num_classes, jnp.int32)


def withhold_labels(key: Key, labels: Labels, model: ModelConfig) -> Labels:
    """Return labels of which a random share, model.label_dropout, is withheld."""
    withheld = jax.random.bernoulli(key, model.label_dropout, labels.shape)
    return jnp.where(withheld, no_labels(model, labels.shape[0]), labels)


def labels_to_draw(model: ModelConfig, wanted: Wanted | None, num_images: int, guidance: float) -> Labels | None:
    """Return the label of each image to draw, int32 [num_images]; None tells none.

    Args:
      model: the model.
      wanted: one class; `all`: image k is of class k mod num_classes; one for each image; or None, which is `all` of a
        model that never went without a label.
      num_images: images to draw.
      guidance: weight w of class-free guidance, 0 for none.

    Raises:
      ConfigError: a class that the model does not have, guidance without a class, or of a model that never went without
        a label.
    """
    if not model.num_classes:
        if wanted is not None or guidance:
            what = "guidance" if guidance else "a class"
            raise ConfigError(
                f"{what} needs a class-conditional model, this one knows no classes (model.num_classes=0)"
            )
        return None
    if guidance and model.needs_labels:
        raise ConfigError("guidance needs a model that also went without labels, this one has model.label_dropout=0")
    if guidance and wanted is None:
        raise ConfigError("guidance is towards a class: give a class too")
    if wanted is None and model.guidable:
        return None
    if wanted is None:
        wanted = "all"
    if isinstance(wanted, str):
        wanted = np.arange(num_images) % model.num_classes
    return jnp.asarray(checked_labels(model, wanted, num_images))


def checked_labels(
    model: ModelConfig, labels: int | Sequence[int] | Shaped[np.ndarray, "..."], num_images: int
) -> Int[np.ndarray, " n"]:
    """Return labels as int32 [num_images]; one label serves all images.

    Raises:
      ConfigError: a model without classes, no whole numbers in 0 .. num_classes - 1, or not as many as images.
    """
    if not model.num_classes:
        raise ConfigError("labels need a class-conditional model, this one knows no classes (model.num_classes=0)")
    given = np.asarray(labels)
    if given.shape not in ((), (num_images,)) or not np.issubdtype(given.dtype, np.integer):
        raise ConfigError(f"labels are one whole number or {num_images}, got {given.dtype} {given.shape}")
    if given.size and not 0 <= given.min() <= given.max() < model.num_classes:
        wrong = given.min() if given.min() < 0 else given.max()
        raise ConfigError(f"a class must lie in 0..{model.num_classes - 1}, got {wrong}")
    return np.broadcast_to(given, (num_images,)).astype(np.int32)


def labels_to_measure(config: Config, labels: Integer[np.ndarray, " n"]) -> Int[np.ndarray, " n"] | None:
    """Return the label of each image that an evaluation tells, int32; None tells none.

    Raises:
      ConfigError: eval.labels=none of a model without classes, or of one that never went without a label.
    """
    model = config.model
    if config.eval.labels == "none":
        if not model.num_classes:
            raise ConfigError("eval.labels=none needs a class-conditional model, this one has model.num_classes=0")
        if model.needs_labels:
            raise ConfigError("eval.labels=none: this model never went without a label (model.label_dropout=0)")
        return None
    return labels.astype(np.int32) if model.num_classes else None
