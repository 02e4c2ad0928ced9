"""What a model has learned, as arrays to look at: its noise schedule, and in the plane the field of its score.

`plots` draws them. The score of the noisy data, the direction in which they get denser, is by arXiv 2107.00630, Eq. 44,

    (1)  grad_z log q(z_t) ~ -eps_hat(z_t, gamma_t) / sigma_t
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_lib import diffusion
from vdm_lib.errors import ConfigError
from vdm_lib.labels import checked_labels
from vdm_lib.model import VDM
from vdm_lib.plots import Field
from vdm_lib.types import Params


class Schedule(NamedTuple):
    """The noise schedule at n times."""

    times: Float[np.ndarray, " n"]
    log_snr: Float[np.ndarray, " n"]


def schedule(model: VDM, params: Params, num_times: int = 101) -> Schedule:
    """Return log SNR = -gamma(t) at evenly spaced times from 0 to 1."""
    times = np.linspace(0.0, 1.0, num_times, dtype=np.float32)
    return Schedule(times, -np.asarray(model.gamma(params, jnp.asarray(times))))


def lattice(reach: float = 1.4, side: int = 25) -> Float[np.ndarray, "n 2"]:
    """Return the side * side places of a square lattice from -reach to reach."""
    along = np.linspace(-reach, reach, side, dtype=np.float32)
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


def score_field(
    model: VDM, params: Params, t: float, places: Float[np.ndarray, "n 2"] | None = None, label: int | None = None
) -> Field:
    """Return the score, Eq. (1), at places of the plane.

    Args:
      model: of points (x, y), which are images of 1x1x2.
      params: of the network.
      t: the time, from 0, the data with hardly any noise, to 1, noise alone.
      places: where, in the scale of [-1, 1] of the data; None takes `lattice()`.
      label: of a class-conditional model, the class; None tells none.

    Raises:
      ConfigError: a model of other images, a time outside [0, 1], or a class that the model does not have.
    """
    if model.data.image_shape != (1, 1, 2):
        raise ConfigError(f"a field is of points of the plane, images of (1, 1, 2), not of {model.data.image_shape}")
    if not 0.0 <= t <= 1.0:
        raise ConfigError(f"a time lies in 0..1, got {t}")
    places = lattice() if places is None else np.asarray(places, np.float32)
    labels = None if label is None else jnp.asarray(checked_labels(model.model, label, len(places)))
    gamma = model.gamma(params, jnp.asarray(t, jnp.float32))
    z = jnp.asarray(places).reshape(-1, 1, 1, 2)
    gammas, zeros = jnp.full(len(places), gamma), jnp.zeros(len(places))
    eps_hat = jax.jit(partial(model.eps_hat, labels=labels))(params, z, gammas, zeros)
    score = -np.asarray(eps_hat / diffusion.sigma(gamma)).reshape(-1, 2)
    return Field(float(t), -float(gamma), places, score)
