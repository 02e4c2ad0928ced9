"""A run of images on one stack, batch after batch: the bits that the first batch pops are paid once.

They come from a generator that both sides know; only the part of the stack that was ever touched is stored. Batches
begin small and grow with what lies on the stack, so that little has to be paid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt32

from vdm_lib.compression import chain
from vdm_lib.compression.ladder import Ladder
from vdm_lib.compression.stack import Stack, seed_words
from vdm_lib.errors import RecordError, VdmError

# Of the two words that the coder holds in hand nobody knows whether they have changed.
_WORDS_IN_HAND = 2
# A popped symbol takes 24 bits at most; two levels of latents are off the stack at a time.
_SEED_WORDS_PER_DIM = 2


@dataclass(frozen=True)
class Codec:
    """What both sides share."""

    ladder: Ladder
    network: chain.EpsHat
    num_levels: int
    batch_size: int
    """Images that go through the chain together, at most."""
    first_batch: int
    """Images of the first batch of a chunk."""
    seed: bytes = b""
    """Of the bits that stacks begin with."""


@dataclass(frozen=True)
class Chunk:
    """The code of some images."""

    counts: tuple[int, ...]
    """Images of each batch."""
    words: UInt32[np.ndarray, " n"]
    """The stack as it is stored."""
    known_words: int
    """Words below them, which the generator gives."""
    net_bits: int
    """By how much the stack grew."""

    @property
    def num_images(self) -> int:
        """Images of all batches."""
        return sum(self.counts)


def encode_chunk(
    codec: Codec,
    index: int,
    images: UInt8[np.ndarray, "n h w c"],
    on_batch: Callable[[int], None] = lambda _: None,
    witness: Callable[[UInt8[np.ndarray, "b h w c"]], chain.Witness] | None = None,
) -> Chunk:
    """Return the code of images.

    Args:
      codec: what both sides share.
      index: number of the chunk: each has seed bits of its own.
      images: at least one.
      on_batch: called with the number of images of each batch when it is done.
      witness: returns who sees the latents of a batch.

    Raises:
      VdmError: latents that the code cannot tell, of a model that predicts what is not finite for one.
    """
    num_dims = images[0].size
    stack = _seeded(codec, index, num_dims)
    began_bits, began_words = stack.num_bits, stack.lowest_words
    counts: list[int] = []
    done, count = 0, min(codec.first_batch, codec.batch_size)
    while done < len(images):
        batch = images[done : done + count]
        key = b"%d" % len(counts)
        chain.encode(stack, codec.ladder, codec.network, batch, codec.num_levels, key, witness and witness(batch))
        if stack.lowest_words <= _WORDS_IN_HAND:
            raise VdmError("the stack ran empty: take a smaller batch")
        counts.append(len(batch))
        done += len(batch)
        on_batch(len(batch))
        # Of all that has been popped below the top, a batch needs its share again.
        need_bits = 32.0 * (began_words - stack.lowest_words) / max(counts[0], 1)
        there_bits = stack.num_bits - 32.0 * stack.lowest_words
        enough_for = there_bits / max(need_bits, 1.0)
        # Doubled, not by as many as would do: the network's calls have few sizes, and room left in them is lost time.
        while count < codec.batch_size and min(2 * count, codec.batch_size) <= enough_for:
            count = min(2 * count, codec.batch_size)
    known = stack.lowest_words - _WORDS_IN_HAND
    return Chunk(tuple(counts), stack.words()[known:], known, stack.num_bits - began_bits)


def decode_chunk(
    codec: Codec,
    index: int,
    chunk: Chunk,
    image_shape: tuple[int, int, int],
    on_batch: Callable[[int], None] = lambda _: None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Return the images of a chunk.

    Raises:
      RecordError: what is left at the end is not what the encoder began with, so that the pixels are wrong.
    """
    seed = _seed(codec, index, math.prod(image_shape))
    if chunk.known_words > len(seed):
        raise RecordError(f"chunk {index} names {chunk.known_words} words of {len(seed)}")
    parts: list[np.ndarray] = []
    try:
        stack = Stack(np.concatenate([seed[: chunk.known_words], chunk.words]), sealed=False)
        for number, count in reversed(list(enumerate(chunk.counts))):
            shape = (count, *image_shape)
            parts.append(chain.decode(stack, codec.ladder, codec.network, shape, codec.num_levels, b"%d" % number))
            on_batch(count)
        whole = np.array_equal(stack.unsealed_words(), seed)
    except (VdmError, KeyError, ValueError):
        # constriction's words for a latent that no encoder can have drawn, and for a stack that none can have left.
        whole = False
    if not whole:
        raise RecordError(f"chunk {index} does not end in the bits that it began with: what it decodes to is wrong")
    return np.concatenate(parts[::-1])


def _seed(codec: Codec, index: int, num_dims: int) -> UInt32[np.ndarray, " n"]:
    num_words = _SEED_WORDS_PER_DIM * codec.batch_size * num_dims + 64
    return seed_words(num_words, codec.seed + b"%d" % index)


def _seeded(codec: Codec, index: int, num_dims: int) -> Stack:
    return Stack(_seed(codec, index, num_dims), sealed=True)
