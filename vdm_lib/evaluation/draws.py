"""Estimates that draw no time: every pass is an independent draw for each image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_lib.evaluation.passes import Estimate, OnePass, Runner
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.types import Key, PerImage


@dataclass(frozen=True, eq=False)
class Draws:
    """An estimate of every image of a split, pass by pass, in bits per dimension."""

    estimate: Estimate
    runner: Runner
    seed: int
    num_dims: int

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return len(self.runner.split.images)

    @property
    def exact(self) -> Float[np.ndarray, " n"]:
        """The part of each image that is not estimated: none."""
        return np.zeros(self.num_images)

    def positions(self, pass_index: int) -> None:
        """Return None: passes are independent draws."""

    @property
    def even_by_image(self) -> bool:
        """Return False: there are no positions."""
        return False

    def one_pass(self, pass_index: int) -> OnePass:
        """Return an estimate of every image; a function of the seed and the pass."""
        key = jax.random.fold_in(jax.random.key(self.seed), pass_index)
        nats = self.runner(self.estimate, np.zeros(self.num_images, np.float32), key)
        return OnePass(nats_to_bpd(nats, self.num_dims))


def log_mean_weight(nats: Float[jax.Array, "samples b"]) -> PerImage:
    """Return -log of the mean of exp(-nats) over samples: the K-sample importance-weighted bound in nats."""
    return jnp.log(nats.shape[0]) - jax.nn.logsumexp(-nats, axis=0)


def sample_keys(key: Key, indices: jax.Array, num_samples: int) -> jax.Array:
    """Return keys [samples, b], functions of the key, the image and the sample."""
    by_image = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index), num_samples))(indices)
    return jnp.swapaxes(by_image, 0, 1)
