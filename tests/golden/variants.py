"""The four networks that the original implementation was run on, and how closely its numbers must be met."""

from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from tests.golden.store import Arrays, load
from tests.shared import shared_path
from vdm_lib import diffusion, likelihood
from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.model import VDM, Noise

# Largest deviation, as a share of the largest value of the array; README.md says where these come from.
TOLERANCE = 3e-5
TOLERANCE_GAMMA_GRADIENT = 1.3e-3  # sums that cancel
TOLERANCE_PRIOR = 1e-3  # v - log v - 1 for v close to 1
# Largest deviation of a parameter after some updates.
TOLERANCE_TRAJECTORY = 2e-5

HERE = Path(__file__).parent
DATA = DataConfig(name="golden", image_shape=(32, 32, 3))
MODELS = {
    "A": ModelConfig(n_embd=32, n_layer=2, gamma_type="learnable_scalar"),
    "B": ModelConfig(n_embd=32, n_layer=2, gamma_type="learnable_nnet", with_attention=True),
    "C": ModelConfig(n_embd=64, n_layer=3, gamma_type="fixed", with_fourier_features=False, timesteps=10),
    "D": ModelConfig(n_embd=64, n_layer=1, gamma_type="learnable_nnet", with_attention=True),
}


def assert_agrees(actual, expected, tolerance=TOLERANCE, what=""):
    expected = np.asarray(expected, np.float64)
    actual = np.asarray(actual, np.float64).reshape(expected.shape)
    largest = max(np.abs(expected).max(), 1e-9)
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * largest, err_msg=what)


def as_tree(leaves):
    return unflatten_dict({path.removeprefix("params/"): jnp.asarray(leaf) for path, leaf in leaves.items()}, sep="/")


@dataclass(frozen=True, eq=False)
class Variant:
    """One network with its parameters, inputs (`in/...`) and outputs."""

    name: str
    model: VDM
    values: Arrays

    @cached_property
    def leaves(self) -> Arrays:
        """The parameters by their paths, in the order of the arrays that hold one number a leaf."""
        if self.name == "C":
            with np.load(shared_path("golden", "C", "params.npz")) as stored:
                return {path: stored[path] for path in stored.files}
        return {path: leaf for path, leaf in self.values.items() if path.startswith("params/")}

    @cached_property
    def params(self):
        return as_tree(self.leaves)

    @cached_property
    def schedule(self):
        """The parameters of gamma alone: the fixed one of C has none."""
        return as_tree({path: leaf for path, leaf in self.values.items() if path.startswith("params/gamma/")})

    def given(self, name):
        return jnp.asarray(self.values[f"in/{name}"])

    def batch(self, offset, shift=0):
        """Images, conditioning and noise of one estimate of the loss, images and noise rolled along the batch."""
        images, eps_0, eps = (jnp.roll(self.given(name), shift, axis=0) for name in ("images", "eps_0", "eps"))
        times = diffusion.spread_times(jnp.asarray(offset), len(images))
        return images, self.given("conditioning"), Noise(eps_0=eps_0, t=times, eps=eps)


@cache
def variant(name):
    values = load(HERE / "common.npz") | load(HERE / f"{name}.npz")
    return Variant(name, VDM(data=DATA, model=MODELS[name]), values)


@partial(jax.jit, static_argnames="model")
def loss_and_gradient(model, params, images, conditioning, noise):
    """Return ((bpd, losses), gradient of bpd), without dropout."""

    def mean_bpd(params):
        losses = model.losses(params, images, conditioning, noise)
        return likelihood.nats_to_bpd(losses.total.mean(), DATA.num_dims), losses

    return jax.value_and_grad(mean_bpd, has_aux=True)(params)


eps_hat = jax.jit(VDM.eps_hat, static_argnums=0)
