"""Noise of images: a function of a key and the image's index, so that no batch and no device changes it.

What has the shape of an image is drawn as a row of numbers and then given its shape: the same numbers, for they depend
on the position in that row alone, but XLA compiles a draw in three or four dimensions four times as long.
"""

import math
from functools import partial

import jax
from jaxtyping import Bool, Float

from vdm_lib.types import Key


def normals(key: Key, shape: tuple[int, ...]) -> Float[jax.Array, "..."]:
    """Return the numbers of `jax.random.normal(key, shape)`."""
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def image_normals(key: Key, indices: jax.Array, shape: tuple[int, ...]) -> Float[jax.Array, "b ..."]:
    """Return standard normal noise of the given shape for each image, a function of the key and its index."""
    return jax.vmap(lambda index: normals(jax.random.fold_in(key, index), shape))(indices)


def keep_masks(keys: jax.Array, rate: float, shape: tuple[int, ...]) -> Bool[jax.Array, "..."]:
    """Return what dropout at this rate keeps for each key of an array: the numbers of `jax.random.bernoulli`.

    Keys of several blocks, [block, image], are drawn for block by block in a loop: all at once would go through more
    memory than a CPU's cache holds.
    """
    if keys.ndim > 1:
        return jax.lax.map(partial(keep_masks, rate=rate, shape=shape), keys)
    # Rows of channels: as one row a TPU copies the masks twice to give them their shape.
    size = (math.prod(shape[:-1]), shape[-1])
    masks = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, size))(keys.reshape(-1))
    return masks.reshape(*keys.shape, *shape)
