"""Gradient accumulation: the mean over a large batch, formed from parts that fit into memory."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mean_over_parts(function: Callable[[Any], Any], batch: Any, num_parts: int, mesh: Mesh) -> Any:
    """Return the mean of function(part) over num_parts equal parts of a batch, one part in memory at a time.

    Args:
      function: returns a tree of arrays, each a mean over the images of a part.
      batch: tree of arrays with the images as their first axis, split over the devices.
      num_parts: divides the images of each device.
      mesh: the devices.
    """
    if num_parts == 1:
        return function(batch)
    parts = jax.tree.map(lambda leaf: _split(leaf, num_parts, mesh), batch)
    if mesh.devices.flat[0].platform == "cpu":
        total = _sum_unrolled(function, parts, num_parts)
    else:
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        rest = jax.tree.map(lambda leaf: leaf[1:], parts)
        total = jax.lax.scan(lambda total, part: (_add(total, function(part)), None), function(first), rest)[0]
    return jax.tree.map(lambda leaf: leaf / num_parts, total)


def _split(leaf: jax.Array, num_parts: int, mesh: Mesh) -> jax.Array:
    """Return [part, image of the part, ...]; each part takes equally many images of every device, so none moves."""
    num_images, *rest = leaf.shape
    by_device = leaf.reshape(mesh.size, num_parts, num_images // (mesh.size * num_parts), *rest)
    parts = by_device.swapaxes(0, 1).reshape(num_parts, num_images // num_parts, *rest)
    return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, PartitionSpec(None, "data")))


def _sum_unrolled(function: Callable[[Any], Any], parts: Any, num_parts: int) -> Any:
    """Return the sum part after part; XLA's CPU backend is tens of times slower for gradients inside a loop."""
    total = function(jax.tree.map(lambda leaf: leaf[0], parts))
    for i in range(1, num_parts):
        # The barrier keeps a part from being worked on before the one before it is done and its memory free.
        parts, total = jax.lax.optimization_barrier((parts, total))
        total = _add(total, function(jax.tree.map(lambda leaf, i=i: leaf[i], parts)))
    return total


def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b, left, right)
