"""Bits-back coding of a batch of images through the chain of latents, from the image upwards (arXiv 1905.06845).

The joint q(z_0 .. z_1 | x) = q(z_0 | x) prod q(z_t | z_s) is the paper's, factored by the forward process: so only two
levels of latents are off the stack at a time, where the reverse order would take all T of them from it before it
gives anything back. With the equations of `ladder`, the encoder

    pops z_0 by (1), pushes x by p(x | z_0);  for each step up: pops z_t by (2), pushes z_s by (3);  pushes z_1 by (4)

and the decoder does the opposite in the opposite order. On average over the bits that are popped, what is pushed less
what is popped is the bound of the model with T steps.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int32, UInt8

from vdm_lib.compression.ladder import Ladder
from vdm_lib.compression.pixels import encoded, probabilities
from vdm_lib.compression.stack import Stack


@runtime_checkable
class EpsHat(Protocol):
    """What predicts the noise; it must give the same bits to the encoder and the decoder."""

    def __call__(self, z: Float[np.ndarray, "b h w c"], gamma: float, /) -> np.ndarray:
        """Return eps_hat of latents at a noise level, float32."""
        ...


@runtime_checkable
class Witness(Protocol):
    """Who sees the latents that the encoder draws."""

    def pixels(self, log_probabilities: Float[np.ndarray, "b d"]) -> None:
        """See log p(x | z_0)."""
        ...

    def step(
        self, i: int, z: Float[np.ndarray, "b h w c"], z_above: Float[np.ndarray, "b h w c"], eps_hat: np.ndarray
    ) -> None:
        """See the latents of levels i and i + 1."""
        ...


def encode(
    stack: Stack,
    ladder: Ladder,
    network: EpsHat,
    images: UInt8[np.ndarray, "b h w c"],
    num_levels: int,
    key: bytes = b"",
    witness: Witness | None = None,
) -> None:
    """Push a batch of images; the key, which the decoder must have too, is one for each batch."""
    shape, lowest, highest = images.shape, ladder.rungs[0], ladder.rungs[-1]
    levels = images.reshape(-1).astype(np.int32)
    stack.whiten(levels.size, lowest.drawn, key + b"/0")
    points = stack.pop_near(ladder.first_mean(encoded(levels, num_levels)), lowest.drawn)
    table = probabilities(ladder.latents(0, points), lowest, num_levels)
    stack.push_table(levels, table)
    if witness is not None:
        own = np.take_along_axis(table, levels[:, None], axis=1)
        witness.pixels(np.log(np.maximum(own, np.finfo(np.float64).tiny)).reshape(shape[0], -1))
    for i in range(ladder.num_steps):
        stack.whiten(points.size, ladder.rungs[i + 1].drawn, key + b"/%d" % (i + 1))
        above = stack.pop_near(ladder.drawn_mean(i + 1, points), ladder.rungs[i + 1].drawn)
        z_above = ladder.latents(i + 1, above)
        eps_hat = network(z_above.reshape(shape), ladder.rungs[i + 1].gamma)
        if witness is not None:
            witness.step(i, ladder.latents(i, points).reshape(shape), z_above.reshape(shape), eps_hat)
        mean = ladder.predicted_mean(i, z_above, eps_hat.reshape(-1))
        stack.push_any(points, mean, ladder.rungs[i].predicted)
        points = above
    stack.push_any(points, np.zeros(points.size), highest.predicted)


def decode(
    stack: Stack, ladder: Ladder, network: EpsHat, shape: tuple[int, int, int, int], num_levels: int, key: bytes = b""
) -> UInt8[np.ndarray, "b h w c"]:
    """Pop a batch of images."""
    points: Int32[np.ndarray, " n"] = stack.pop_any(np.zeros(int(np.prod(shape))), ladder.rungs[-1].predicted)
    for i in reversed(range(ladder.num_steps)):
        z_above = ladder.latents(i + 1, points)
        eps_hat = network(z_above.reshape(shape), ladder.rungs[i + 1].gamma)
        below = stack.pop_any(ladder.predicted_mean(i, z_above, eps_hat.reshape(-1)), ladder.rungs[i].predicted)
        stack.push_near(points, ladder.drawn_mean(i + 1, below), ladder.rungs[i + 1].drawn)
        stack.whiten(points.size, ladder.rungs[i + 1].drawn, key + b"/%d" % (i + 1))
        points = below
    lowest = ladder.rungs[0]
    levels = stack.pop_table(probabilities(ladder.latents(0, points), lowest, num_levels))
    stack.push_near(points, ladder.first_mean(encoded(levels, num_levels)), lowest.drawn)
    stack.whiten(points.size, lowest.drawn, key + b"/0")
    return levels.reshape(shape).astype(np.uint8)
