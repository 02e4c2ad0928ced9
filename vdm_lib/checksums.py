"""Checksums of arrays where they lie, so that a bit that flips in storage is seen when a checkpoint is read."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


@jax.jit
def leaf_checksums(tree: Any) -> UInt32[Array, " leaves"]:
    """Return one number per leaf: the sum of its 32-bit words times odd weights, modulo 2^32.

    An odd weight is invertible, so no change of a single word goes unseen. Integer sums do not depend on their
    order: the result is the same on any number of devices.

    Args:
      tree: arrays of 32-bit types.
    """

    def checksum(leaf: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
        weights = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        return jnp.sum(words * weights, dtype=jnp.uint32)

    return jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(tree)])
