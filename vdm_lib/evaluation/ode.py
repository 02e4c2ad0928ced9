"""Likelihood by the probability-flow ODE (Song et al., arXiv 2011.13456), for discrete images.

In y = z / alpha the flow of a variance-preserving diffusion has no linear part; gamma = -log SNR serves as time:

    (1)  dy/dgamma = 1/2 exp(gamma / 2) eps_hat(alpha y, gamma)
    (2)  log p(y_0) = log p(y_1) + integral over gamma from gamma_0 to gamma_1 of the divergence of (1)

with alpha_1 y_1 standard normal. The trace in (2) is exact, by one derivative per dimension, or Hutchinson's
estimate v^T J v with one Rademacher vector v per solution, which is unbiased for log p. A discrete x becomes y_0
in one of two ways, both upper bounds of -log p(x) for one sample and less for K of them:

    decoder           -log p(x | y_0) - log p(y_0) + log q(y_0 | x), y_0 = f(x) + exp(gamma_0 / 2) eps
    truncated_normal  -log p(y_0) + log q(y_0 | x), the same with eps truncated to the bin of x (Zheng et al.,
                      arXiv 2305.03935), which needs no decoder
"""

import math
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vdm_lib import diffusion, likelihood
from vdm_lib.config import Dequantisation, OdeTrace
from vdm_lib.evaluation.draws import log_mean_weight, sample_keys
from vdm_lib.model import VDM
from vdm_lib.noise import normals
from vdm_lib.types import Key, Labels, Levels, Params, PerImage

_MOST_STEPS = 4096
# Tsitouras' pair takes its last slope over to the next step.
CALLS_PER_STEP = 6

_Image = Float[Array, "h w c"]


@dataclass(frozen=True)
class OdeLikelihood:
    """-log p(x) of each image in nats by the ODE, or its K-sample importance-weighted bound."""

    model: VDM
    steps: int
    """Steps of a fixed size in gamma; 0 chooses each step by the tolerance."""
    tolerance: float
    """Relative and absolute tolerance of adaptive steps."""
    trace: OdeTrace
    dequantisation: Dequantisation
    samples: int
    """K, draws of y_0 per image."""

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return one draw of K samples per image; `times` are not looked at. NaN where the solver gave up."""
        keys = sample_keys(key, indices, self.samples)
        one = jax.vmap(lambda image, label, key: self._sample(params, image, label, key))
        return log_mean_weight(jax.lax.map(lambda each: one(images, labels, each), keys))

    def _sample(self, params: Params, image: jax.Array, label: jax.Array | None, key: Key) -> Float[Array, ""]:
        """Return the bound of one image from one draw of y_0."""
        gamma_0 = self.model.gamma(params, jnp.asarray(0.0))
        num_levels, num_dims = self.model.data.num_levels, self.model.data.num_dims
        x = likelihood.encode(image, num_levels)
        key_y, key_trace = jax.random.split(key)
        decoder_nats = jnp.zeros(())
        log_mass = jnp.zeros(())
        if self.dequantisation == "decoder":
            eps = normals(key_y, x.shape)
            y_0 = x + jnp.exp(0.5 * gamma_0) * eps
            decoder_nats = -likelihood.log_prob(image[None], y_0[None], gamma_0, num_levels)[0]
        else:
            half_bin = jnp.exp(-0.5 * gamma_0) / num_levels
            eps = jax.random.truncated_normal(key_y, -half_bin, half_bin, x.shape)
            y_0 = x + jnp.exp(0.5 * gamma_0) * eps
            log_mass = jnp.log(jax.lax.erf(half_bin / math.sqrt(2.0)))
        log_q = -jnp.sum(0.5 * jnp.square(eps)) - num_dims * (
            0.5 * math.log(2.0 * math.pi) + 0.5 * gamma_0 + log_mass
        )  # fmt: skip
        return decoder_nats - self.log_density(params, y_0, key_trace, label) + log_q

    def log_density(
        self, params: Params, y_0: _Image, key: Key, label: Int[Array, ""] | None = None
    ) -> Float[Array, ""]:
        """Return log p(y_0) of one image, given its label if there is one, in nats, Eq. (2)."""
        labels = None if label is None else label[None]
        model = self.model
        gamma_0, gamma_1 = (model.gamma(params, jnp.asarray(t)) for t in (0.0, 1.0))
        probe = jax.random.rademacher(key, y_0.shape, jnp.float32)

        def flow(gamma: jax.Array, y: _Image) -> _Image:
            z = diffusion.alpha(gamma) * y
            eps_hat = model.eps_hat(params, z[None], gamma[None], jnp.zeros(1, jnp.int32), labels=labels)[0]
            return 0.5 * jnp.exp(0.5 * gamma) * eps_hat

        def slope(gamma: Any, state: tuple[_Image, jax.Array], _: None) -> tuple[_Image, jax.Array]:
            gamma = jnp.asarray(gamma, jnp.float32)

            def along(direction: _Image) -> tuple[_Image, jax.Array]:
                velocity, change = jax.jvp(lambda y: flow(gamma, y), (state[0],), (direction,))
                return velocity, jnp.sum(direction * change)

            if self.trace == "rademacher":
                return along(probe)
            basis = jnp.eye(y_0.size).reshape(y_0.size, *y_0.shape)
            velocity, diagonal = jax.vmap(along)(basis)
            return velocity[0], jnp.sum(diagonal)

        fixed = self.steps > 0
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(slope),  # pyright: ignore[reportArgumentType]
            diffrax.Tsit5(),
            t0=gamma_0,
            t1=gamma_1,
            dt0=(gamma_1 - gamma_0) / self.steps if fixed else None,
            y0=(y_0, jnp.zeros(())),
            stepsize_controller=diffrax.ConstantStepSize()
            if fixed
            else diffrax.PIDController(rtol=self.tolerance, atol=self.tolerance),
            # One step more than asked for, as the last one may be cut in two by rounding.
            max_steps=self.steps + 1 if fixed else _MOST_STEPS,
            throw=False,
        )
        assert solution.ys is not None
        y_1, log_volume = (each[-1] for each in solution.ys)
        alpha_1 = diffusion.alpha(gamma_1)
        log_p_1 = -0.5 * jnp.sum(jnp.square(alpha_1 * y_1) + math.log(2.0 * math.pi) - 2.0 * jnp.log(alpha_1))
        solved = solution.result == diffrax.RESULTS.successful
        return jnp.where(solved, log_p_1 + log_volume, jnp.nan)
