"""Noise of images: a function of a key and the image's index, so that no batch and no device changes it."""

import jax
from jaxtyping import Float

from vdm_lib.types import Key


def image_normals(key: Key, indices: jax.Array, shape: tuple[int, ...]) -> Float[jax.Array, "b ..."]:
    """Return standard normal noise of the given shape for each image, a function of the key and its index."""
    return jax.vmap(lambda index: jax.random.normal(jax.random.fold_in(key, index), shape))(indices)
