"""Random variation of training images on the device, as google-research/vdm does it.

A branch is taken with probability 1/2; an image that any branch was taken for gets the conditioning 1, so that the
network can tell varied images from real ones. Evaluation and sampling use the conditioning 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, UInt8

from vdm_lib.config import Augmentation
from vdm_lib.types import Key

_Image = UInt8[Array, "h w c"]


def augment(
    key: Key, images: UInt8[Array, "b h w c"], augmentation: Augmentation
) -> tuple[UInt8[Array, "b h w c"], Integer[Array, " b"]]:
    """Return varied images and the conditioning of each, int32 0 or 1.

    Args:
      key: random key; every image has its own draw.
      images: uint8 images, square unless augmentation is none.
      augmentation: `flip_rotate` flips left-right and rotates by 90, 180 or 270 degrees, each with probability
        1/2; `flip_rotate_channels` also permutes the channels (the identity is one of the permutations).
    """
    if augmentation == "none":
        return images, jnp.zeros(images.shape[0], jnp.int32)
    keys = jax.random.split(key, images.shape[0])
    permute = augmentation == "flip_rotate_channels"
    return jax.vmap(lambda key, image: _augment_one(key, image, permute=permute))(keys, images)


def _augment_one(key: Key, image: _Image, *, permute: bool) -> tuple[_Image, Integer[Array, ""]]:
    key_branch, key_turns, key_channels = jax.random.split(key, 3)
    flip, rotate, swap = jax.random.bernoulli(key_branch, 0.5, (3,))
    image = jnp.where(flip, image[:, ::-1], image)
    turns = jnp.where(rotate, jax.random.randint(key_turns, (), 1, 4), 0)
    image = jnp.stack([jnp.rot90(image, k) for k in range(4)])[turns]
    taken = flip | rotate
    if permute:
        image = jnp.where(swap, image[:, :, jax.random.permutation(key_channels, image.shape[-1])], image)
        taken |= swap
    return image, taken.astype(jnp.int32)
