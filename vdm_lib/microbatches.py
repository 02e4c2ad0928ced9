"""Gradient accumulation: the mean over a large batch, formed from parts that fit into memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_parts(function: Callable[[Any], Any], batch: Any, num_parts: int, *, unrolled: bool) -> Any:
    """Return the mean of function(part) over num_parts equal parts of a batch, one part in memory at a time.

    Args:
      function: returns a tree of arrays, each a mean over the images of a part.
      batch: tree of arrays of one device, with the images as their first axis.
      num_parts: divides the images.
      unrolled: compile each part instead of a loop over them, for XLA's CPU backend is tens of times slower for
        gradients inside a loop.
    """
    if num_parts == 1:
        return function(batch)
    parts = jax.tree.map(lambda leaf: leaf.reshape(num_parts, -1, *leaf.shape[1:]), batch)
    if unrolled:
        total = _sum_unrolled(function, parts, num_parts)
    else:
        # From zeros, not from the first part: that would compile the function a second time, outside of the loop.
        shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total = jax.lax.scan(lambda total, part: (_add(total, function(part)), None), zeros, parts)[0]
    return jax.tree.map(lambda leaf: leaf / num_parts, total)


def _sum_unrolled(function: Callable[[Any], Any], parts: Any, num_parts: int) -> Any:
    """Return the sum part after part."""
    total = function(jax.tree.map(lambda leaf: leaf[0], parts))
    for i in range(1, num_parts):
        # The barrier keeps a part from being worked on before the one before it is done and its memory free.
        parts, total = jax.lax.optimization_barrier((parts, total))
        total = _add(total, function(jax.tree.map(lambda leaf, i=i: leaf[i], parts)))
    return total


def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b, left, right)
