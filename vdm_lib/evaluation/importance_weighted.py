"""The K-sample importance-weighted bound of the chain of T steps (Burda et al., arXiv 1509.00519).

With w = p(x, z_0, ..., z_1) / q(z_0, ..., z_1 | x) and K independent chains,

    (1)  -log p(x) <= -E log (1/K sum_k w_k) <= -E log w = L_T

and (1) falls to -log p(x) with K. A chain is drawn from q backwards, from z_1 to z_0. In terms of its noise,
z_t = alpha_t x + sigma_t eps_t, with e = exp(gamma_t - gamma_s) - 1 and c = 1 - exp(gamma_s - gamma_t):

    (2)  eps_s = sqrt(1 - c) eps_t + sqrt(c) n,  n standard normal
    (3)  log q(z_s | z_t, x) / p(z_s | z_t) = e/2 |d|^2 + sqrt(e) n.d,  d = eps_hat - eps_t

whose mean over n is the diffusion loss of the step, Eq. (4) of `diffusion` over T.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vdm_lib import diffusion, likelihood
from vdm_lib.evaluation.draws import log_mean_weight, sample_keys
from vdm_lib.model import VDM
from vdm_lib.noise import normals
from vdm_lib.types import Key, Labels, Latents, Levels, Params, PerImage


@dataclass(frozen=True)
class ImportanceWeighted:
    """The importance-weighted bound of each image in nats; the model has T > 0 steps."""

    model: VDM
    samples: int
    """K, chains per image."""

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return one draw of K chains per image; `times` are not looked at."""
        keys = sample_keys(key, indices, self.samples)
        return log_mean_weight(jax.lax.map(lambda each: self._chain(params, images, labels, each), keys))

    def _chain(self, params: Params, images: Levels, labels: Labels | None, keys: jax.Array) -> PerImage:
        """Return -log w of one chain per image."""
        model, timesteps = self.model, self.model.model.timesteps
        x = likelihood.encode(images, model.data.num_levels)
        conditioning = jnp.zeros(images.shape[0], jnp.int32)

        def normals_of(step: int | jax.Array) -> Latents:
            return jax.vmap(lambda each: normals(jax.random.fold_in(each, step), x.shape[1:]))(keys)

        def gamma_at(step: jax.Array) -> jax.Array:
            return model.gamma(params, step.astype(jnp.float32) / timesteps)

        def body(i: jax.Array, carry: tuple[Latents, PerImage]) -> tuple[Latents, PerImage]:
            eps, nats = carry
            gamma_t, gamma_s = gamma_at(timesteps - i), gamma_at(timesteps - i - 1)
            by_image = jnp.broadcast_to(gamma_t, nats.shape)
            z_t = diffusion.q_sample(x, eps, by_image)
            d = model.eps_hat(params, z_t, by_image, conditioning, labels=labels) - eps
            n = normals_of(i + 1)
            e = jnp.expm1(gamma_t - gamma_s)
            c = -jnp.expm1(gamma_s - gamma_t)
            nats = nats + jnp.sum(0.5 * e * jnp.square(d) + jnp.sqrt(e) * n * d, axis=(1, 2, 3))
            return jnp.sqrt(1.0 - c) * eps + jnp.sqrt(c) * n, nats

        gamma_1, gamma_0 = gamma_at(jnp.asarray(timesteps)), gamma_at(jnp.asarray(0))
        eps_1 = normals_of(0)
        z_1 = diffusion.q_sample(x, eps_1, jnp.broadcast_to(gamma_1, x.shape[:1]))
        log_variance = jax.nn.log_sigmoid(gamma_1)
        prior = 0.5 * jnp.sum(jnp.square(z_1) - jnp.square(eps_1) - log_variance, axis=(1, 2, 3))
        eps_0, nats = jax.lax.fori_loop(0, timesteps, body, (eps_1, prior))
        z_0_rescaled = x + jnp.exp(0.5 * gamma_0) * eps_0
        return nats - likelihood.log_prob(images, z_0_rescaled, gamma_0, model.data.num_levels)
