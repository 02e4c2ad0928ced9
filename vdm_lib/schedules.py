"""The noise schedule gamma(t) = -log SNR(t), t in [0, 1] (Sec. 3 and App. H of arXiv 2107.00630).

sigma^2(t) = sigmoid(gamma(t)) and alpha^2(t) = sigmoid(-gamma(t)), so gamma rises from almost no noise at t = 0
to almost nothing but noise at t = 1. Every schedule maps an array of times to gammas of the same shape.
Parameter names and initial values are those of google-research/vdm.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Array, Float

from vdm_lib.config import ModelConfig


class FixedLinear(nn.Module):
    """gamma(t) = gamma_min + (gamma_max - gamma_min) t, without parameters."""

    gamma_min: float
    gamma_max: float

    @nn.compact
    def __call__(self, t: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return gamma(t), float32."""
        return self.gamma_min + (self.gamma_max - self.gamma_min) * t


class LearnedLinear(nn.Module):
    """gamma(t) = b + |w| t: the end points are learned, the log SNR stays linear in time."""

    gamma_min: float
    gamma_max: float

    @nn.compact
    def __call__(self, t: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return gamma(t), float32."""
        w = self.param("w", nn.initializers.constant(self.gamma_max - self.gamma_min), (1,))
        b = self.param("b", nn.initializers.constant(self.gamma_min), (1,))
        return b[0] + jnp.abs(w[0]) * t


class MonotoneDense(nn.Module):
    """A dense layer whose kernel is taken by its absolute value, so that its output rises with its input."""

    features: int
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """Return x |kernel| + bias."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = x @ jnp.abs(kernel)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,))
        return y


class LearnedMonotone(nn.Module):
    """A line plus a small monotone network (App. H), `learnable_nnet` in the original.

    As in the original the sum is not renormalised, so gamma(0) and gamma(1) leave gamma_min and gamma_max.
    """

    gamma_min: float
    gamma_max: float
    num_features: int = 1024

    @nn.compact
    def __call__(self, t: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return gamma(t), float32."""
        normal = nn.initializers.normal(0.01)
        t = t[..., None]
        line = MonotoneDense(
            1,
            kernel_init=nn.initializers.constant(self.gamma_max - self.gamma_min),
            bias_init=nn.initializers.constant(self.gamma_min),
            name="l1",
        )(t)
        hidden = MonotoneDense(self.num_features, kernel_init=normal, name="l2")(2.0 * (t - 0.5))
        hidden = 2.0 * (nn.sigmoid(hidden) - 0.5)
        bend = MonotoneDense(1, kernel_init=normal, use_bias=False, name="l3")(hidden) / self.num_features
        return (line + bend)[..., 0]


def make_schedule(config: ModelConfig) -> nn.Module:
    """Return the schedule that `config.gamma_type` names."""
    kinds = {"fixed": FixedLinear, "learnable_scalar": LearnedLinear, "learnable_nnet": LearnedMonotone}
    return kinds[config.gamma_type](gamma_min=config.gamma_min, gamma_max=config.gamma_max)
