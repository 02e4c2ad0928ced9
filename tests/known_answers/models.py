"""Models whose denoiser is known exactly: eps_hat = (z - alpha E[x | z]) / sigma for data of a known density.

The density is carried in the parameters, so that one compiled function serves all of them; the schedule is fixed.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.data import Split
from vdm_lib.evaluation.passes import Runner
from vdm_lib.model import VDM
from vdm_lib.sharding import make_mesh

GAMMA_0, GAMMA_1 = -5.0, 6.0


def model_config(timesteps: int = 0, gamma_0: float = GAMMA_0, gamma_1: float = GAMMA_1) -> ModelConfig:
    return ModelConfig(gamma_type="fixed", gamma_min=gamma_0, gamma_max=gamma_1, timesteps=timesteps)


@dataclass(frozen=True)
class GaussianVDM(VDM):
    """Independent dimensions N(mean, variance): params has both, of the image's shape."""

    def eps_hat(self, params, z_t, gamma_t, conditioning, dropout_key=None, labels=None):
        gamma = gamma_t[:, None, None, None]
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
        return sigma * (z_t - alpha * params["mean"]) / (alpha**2 * params["variance"] + sigma**2)


@dataclass(frozen=True)
class MixtureVDM(VDM):
    """A mixture of k normals: params has log_weights [k], and means and variances [k, h, w, c]."""

    def eps_hat(self, params, z_t, gamma_t, conditioning, dropout_key=None, labels=None):
        gamma = gamma_t[:, None, None, None, None]
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
        variance = alpha**2 * params["variances"] + sigma**2
        scaled = (z_t[:, None] - alpha * params["means"]) / variance
        log_density = -0.5 * jnp.sum(scaled**2 * variance + jnp.log(variance), axis=(2, 3, 4)) + params["log_weights"]
        share = jax.nn.softmax(log_density, axis=1)[:, :, None, None, None]
        # The score of a mixture is the mean of the scores by their shares, and eps_hat = -sigma score.
        return sigma[:, 0] * jnp.sum(share * scaled, axis=1)


def discretise(values: np.ndarray, num_levels: int) -> np.ndarray:
    """Return the levels whose bins in [-1, 1] the values lie in."""
    return np.clip(np.floor((values + 1.0) * num_levels / 2.0), 0, num_levels - 1).astype(np.uint8)


def split_of(images: np.ndarray, num_levels: int) -> Split:
    return Split("test", images, np.zeros(len(images), np.int64), num_levels, "0" * 64)


@dataclass(frozen=True)
class Known:
    """A model, its parameters and images of its density."""

    model: VDM
    params: dict
    images: np.ndarray

    @property
    def num_levels(self) -> int:
        return self.model.data.num_levels

    def with_timesteps(self, timesteps: int) -> "Known":
        kind = type(self.model)
        model = self.model.model
        config = model_config(timesteps, model.gamma_min, model.gamma_max)
        return Known(kind(data=self.model.data, model=config), self.params, self.images)

    def runner(self, batch_size: int = 256) -> Runner:
        return Runner(self.params, split_of(self.images, self.num_levels), make_mesh(), batch_size)


def gaussian(num_images: int = 200, *, shape=(2, 3, 1), num_levels: int = 32, gamma_0: float = GAMMA_0) -> Known:
    """Images whose dimensions are independent normals with different means and variances."""
    rng = np.random.default_rng(1)
    mean, deviation = rng.uniform(-0.3, 0.3, shape), rng.uniform(0.1, 0.4, shape)
    images = discretise(mean + deviation * rng.normal(size=(num_images, *shape)), num_levels)
    data = DataConfig(name="gaussian", image_shape=shape, num_levels=num_levels)
    params = {"mean": jnp.asarray(mean, jnp.float32), "variance": jnp.asarray(deviation**2, jnp.float32)}
    return Known(GaussianVDM(data=data, model=model_config(gamma_0=gamma_0)), params, images)


def mixture(num_dims: int, num_images: int = 200, *, num_levels: int = 32, gamma_1: float = 10.0) -> Known:
    """Images of one or two dimensions from three normals; in two dimensions they are dependent."""
    rng = np.random.default_rng(2)
    shape = (1, num_dims, 1)
    weights = np.array([0.5, 0.3, 0.2])
    means = np.array([[-0.5, 0.4], [0.2, -0.3], [0.6, 0.5]])[:, :num_dims].reshape(3, *shape)
    deviations = np.array([[0.15, 0.2], [0.08, 0.1], [0.12, 0.15]])[:, :num_dims].reshape(3, *shape)
    which = rng.choice(3, num_images, p=weights)
    images = discretise(means[which] + deviations[which] * rng.normal(size=(num_images, *shape)), num_levels)
    data = DataConfig(name="mixture", image_shape=shape, num_levels=num_levels)
    params = {
        "log_weights": jnp.asarray(np.log(weights), jnp.float32),
        "means": jnp.asarray(means, jnp.float32),
        "variances": jnp.asarray(deviations**2, jnp.float32),
    }
    return Known(MixtureVDM(data=data, model=model_config(gamma_1=gamma_1)), params, images)
