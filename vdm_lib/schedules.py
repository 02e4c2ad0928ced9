"""The noise schedule gamma(t) = -log SNR(t), t in [0, 1] (Sec. 3 and App. H of arXiv 2107.00630).

sigma^2(t) = sigmoid(gamma(t)) and alpha^2(t) = sigmoid(-gamma(t)), so gamma rises from almost no noise at t = 0
to almost nothing but noise at t = 1. Every schedule maps an array of times to gammas of the same shape.
Parameter names and initial values are those of google-research/vdm, but for `MonotoneBetweenEnds`, which it lacks.
"""

from collections.abc import Callable

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


class MonotoneBetweenEnds(nn.Module):
    """gamma(t) = (1 - h(t)) gamma_0 + h(t) gamma_1, `learnable_monotone`: end points and interior apart.

    h is a network with one hidden layer of logistic units, each normalised on [0, 1]:

        (1)  s_k(t) = (S(a_k (t - c_k)) - S(-a_k c_k)) / (S(a_k (1 - c_k)) - S(-a_k c_k)),  S the logistic function
        (2)  h(t) = 0.01 t + 0.99 sum over k of w_k s_k(t),  w_k > 0 with sum 1,  1 <= a_k <= 63,  0 <= c_k <= 1

    so that h(0) = 0, h(1) = 1 and h' >= 0.01 whatever the parameters are. They are deviations from near the line h = t.
    """

    gamma_min: float
    gamma_max: float
    num_units: int = 32

    def setup(self) -> None:
        """Make the parameters; those of the interior begin as 0."""
        self.gamma_0 = self.param("gamma_0", nn.initializers.constant(self.gamma_min), ())
        self.gamma_1 = self.param("gamma_1", nn.initializers.constant(self.gamma_max), ())
        self.weights = self.param("weights", nn.initializers.zeros, (self.num_units,))
        self.centres = self.param("centres", nn.initializers.zeros, (self.num_units,))
        self.steepnesses = self.param("steepnesses", nn.initializers.zeros, (self.num_units,))

    def __call__(self, t: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return gamma(t), float32."""
        return self.between(self.interior(t))

    def between(self, h: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return gamma at the share h of the way; exactly gamma_0 at 0 and gamma_1 at 1."""
        return (1.0 - h) * self.gamma_0 + h * self.gamma_1

    def interior(self, t: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return h(t), float32; exactly 0 at 0 and 1 at 1.

        Of both h and 1 - h a multiple is formed that is 0 where it must be by its first factor, so no rounding can
        move an end point.
        """
        # Bounded, so that no unit dies and nothing overflows: exp(-10) to exp(10).
        weights = nn.softmax(10.0 * jnp.tanh(_GAIN / 10.0 * self.weights))
        places = (jnp.arange(self.num_units) + 0.5) / self.num_units
        c = nn.sigmoid(jnp.log(places / (1.0 - places)) + _GAIN * self.centres)
        a = 1.0 + 62.0 * nn.sigmoid(_GAIN * self.steepnesses)
        t = t[..., None]
        x = a * (t - c)
        up = -jnp.expm1(-a * t) * (1.0 + jnp.exp(-a * (1.0 - c))) * nn.sigmoid(x)
        down = -jnp.expm1(-a * (1.0 - t)) * (1.0 + jnp.exp(-a * c)) * nn.sigmoid(-x)
        done, left = (jnp.sum(weights * each / (up + down), axis=-1) for each in (up, down))
        t = t[..., 0]
        done, left = ((1.0 - _LINE) * each + _LINE * line for each, line in ((done, t), (left, 1.0 - t)))
        return done / (done + left)


# Adam moves a parameter by about the learning rate a step, which is made for the weights of the network.
_GAIN = 10.0
_LINE = 0.01


def log_snr_linear(gamma_0: Float[Array, ""], gamma_1: Float[Array, ""], t: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """Return gamma linear in t from gamma_0 to gamma_1."""
    return (1.0 - t) * gamma_0 + t * gamma_1


def beta_linear(gamma_0: Float[Array, ""], gamma_1: Float[Array, ""], t: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """Return the gamma of a rate of noise that rises linearly in t (Ho et al. 2020), stretched from gamma_0 to gamma_1.

    Theirs is gamma = log(exp(B) - 1), with B the sum of a beta that rises from 1e-4 to 0.02 in 1,000 steps; at t = 0
    it is of one step. This gamma is scaled and moved to the end points.
    """
    return _stretch(lambda t: jnp.log(jnp.expm1(1e-4 + 0.1 * t + 9.95 * jnp.square(t))), gamma_0, gamma_1, t)


def cosine(gamma_0: Float[Array, ""], gamma_1: Float[Array, ""], t: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """Return the gamma of alpha = cos(angle), the angle linear in t (Nichol and Dhariwal 2021), stretched likewise.

    Theirs is gamma = 2 log tan(angle) with (t + s) / (1 + s) of a right angle and s = 0.008. At t = 1 it is infinite:
    the last of 1,000 steps, which they clip, is left out.
    """
    return _stretch(lambda t: 2.0 * jnp.log(jnp.tan(0.5 * jnp.pi * (0.999 * t + 0.008) / 1.008)), gamma_0, gamma_1, t)


def _stretch(
    shape: Callable[[Array], Array], gamma_0: Float[Array, ""], gamma_1: Float[Array, ""], t: Float[Array, " *n"]
) -> Float[Array, " *n"]:
    first, last = shape(jnp.asarray(0.0)), shape(jnp.asarray(1.0))
    return log_snr_linear(gamma_0, gamma_1, (shape(t) - first) / (last - first))


def make_schedule(config: ModelConfig) -> nn.Module:
    """Return the schedule that `config.gamma_type` names."""
    kinds = {"fixed": FixedLinear, "learnable_scalar": LearnedLinear, "learnable_nnet": LearnedMonotone,
             "learnable_monotone": MonotoneBetweenEnds}  # fmt: skip
    return kinds[config.gamma_type](gamma_min=config.gamma_min, gamma_max=config.gamma_max)
