"""What a code should cost, computed beside the coder from the very latents that it drew.

The ideal length of an image is -log p(x, z) + log q(z | x) in nats, with the densities of `ladder`. It varies with the
latents around the bound; the part of it that does so has the mean zero, and without it

    (5)  sum over steps of KL(q(z_s | z_t, x) || p(z_s | z_t)), with the exact reconstruction and prior losses

is an estimate of the bound that varies far less. What the coder needs above the ideal is its own loss.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from vdm_lib.compression.ladder import Ladder
from vdm_lib.compression.pixels import encoded


class Account:
    """The lengths of the images of a batch, in nats."""

    def __init__(self, ladder: Ladder, levels: Integer[np.ndarray, "b h w c"], num_levels: int) -> None:
        """Begin with nothing."""
        self._ladder, self._x = ladder, encoded(levels, num_levels)
        self.ideal = np.zeros(len(levels))
        """-log p(x, z) + log q(z | x)."""
        self.divergence = np.zeros(len(levels))
        """The sum of (5) over the steps."""

    def pixels(self, log_probabilities: Float[np.ndarray, "b d"]) -> None:
        """Add -log p(x | z_0)."""
        self.ideal -= log_probabilities.sum(axis=1)

    def step(
        self, i: int, z: Float[np.ndarray, "b h w c"], z_above: Float[np.ndarray, "b h w c"], eps_hat: np.ndarray
    ) -> None:
        """Add log q(z_s | z_t, x) - log p(z_s | z_t), two Gaussians of one variance; at the top the prior as well."""
        here, above = self._ladder.rungs[i], self._ladder.rungs[i + 1]
        eps = (z_above - above.alpha * self._x) / above.sigma
        scale = here.alpha / above.alpha
        noise = above.sigma * here.c_above
        true, predicted = (scale * (z_above - noise * each) for each in (eps, eps_hat.astype(np.float64)))
        twice_variance = 2.0 * here.sigma**2 * here.c_above
        self.ideal += _per_image((np.square(z - predicted) - np.square(z - true)) / twice_variance)
        self.divergence += _per_image(np.square(true - predicted) / twice_variance)
        if i + 1 == self._ladder.num_steps:
            self.ideal += _per_image(0.5 * (np.square(z_above) - np.square(eps)) - np.log(above.sigma))


def joined(accounts: Sequence[Account]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return ideal lengths and divergences of all images of several batches."""
    return (
        np.concatenate([each.ideal for each in accounts]),
        np.concatenate([each.divergence for each in accounts]),
    )


def _per_image(values: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, " b"]:
    return values.sum(axis=(1, 2, 3))
