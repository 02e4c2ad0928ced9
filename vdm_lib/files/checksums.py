"""Checksums of arrays where they lie, so that a bit that flips in storage is seen when a checkpoint is read."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32


def leaf_checksums(tree: Any) -> list[int]:
    """Return one number per leaf: the sum of its 32-bit words times odd weights, modulo 2^32.

    An odd weight is invertible, so no change of a single word goes unseen. Integer sums do not depend on their
    order: the result is the same on any number of devices and processes, and whole on each.

    Args:
      tree: arrays of 32-bit types, of jax or NumPy.
    """
    # One after the other: programs that sum over processes must not overtake each other.
    return [int(_checksum(leaf)) for leaf in jax.tree.leaves(tree)]


def params_digest(params: Any) -> str:
    """Return the hex SHA-256 over names, shapes, types and bytes of all arrays, in the order of the tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        values = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


# One program per shape: one program for all leaves of a large state takes half a minute and a gigabyte to compile.
@jax.jit
def _checksum(leaf: jax.Array) -> UInt32[Array, ""]:
    words = jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(-1)
    weights = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
    return jnp.sum(words * weights, dtype=jnp.uint32)
