"""Gradients of the second moment of an estimate, formed in the backward pass of the estimate itself.

The mean over images of L_i has the gradient (1) in everything that it depends on. What the estimate takes from
parameters phi of its randomness alone, so that its expectation does not depend on them, has to follow (2) instead, the
gradient of its second moment and so of its variance (App. I.2 of arXiv 2107.00630):

    (1)  1/n sum over i of dL_i/dphi                  (2)  1/n sum over i of 2 L_i dL_i/dphi

Both have the same dL_i/dphi, the cotangent that reaches what phi made for image i. So it is enough to multiply that
cotangent by 2 L_i on its way back: no estimate is made twice. `begin` stands where phi enters, `end` where L_i is
known; the factor travels from one to the other as the cotangent of a tag of zeros.
"""

import jax
import jax.numpy as jnp

from vdm_lib.types import PerImage


@jax.custom_vjp
def begin(value: PerImage, slope: PerImage) -> tuple[PerImage, PerImage, PerImage]:
    """Return both unchanged, with the tag for `end`; backwards, both cotangents are multiplied by that of the tag."""
    return value, slope, jnp.zeros_like(value)


def _begin_forward(value: PerImage, slope: PerImage) -> tuple[tuple[PerImage, PerImage, PerImage], None]:
    return begin(value, slope), None


def _begin_backward(_: None, cotangents: tuple[PerImage, PerImage, PerImage]) -> tuple[PerImage, PerImage]:
    of_value, of_slope, factor = cotangents
    return of_value * factor, of_slope * factor


@jax.custom_vjp
def end(loss: PerImage, tag: PerImage, unit: float) -> PerImage:
    """Return the loss unchanged; backwards, its own cotangent is unchanged and that of the tag is 2 loss / unit.

    Args:
      loss: the estimate of each image.
      tag: of `begin`.
      unit: of the loss in (2), so that the gradient is that of the mean of loss^2 / unit.
    """
    return loss


def _end_forward(loss: PerImage, tag: PerImage, unit: float) -> tuple[PerImage, tuple[PerImage, float]]:
    return loss, (loss, unit)


def _end_backward(kept: tuple[PerImage, float], cotangent: PerImage) -> tuple[PerImage, PerImage, None]:
    loss, unit = kept
    return cotangent, 2.0 * loss / unit, None


begin.defvjp(_begin_forward, _begin_backward)
end.defvjp(_end_forward, _end_backward)
