"""The diffusion process and its losses as pure functions; no network, no parameters.

Notation of arXiv 2107.00630, with gamma = -log SNR:

    (1)  sigma^2 = sigmoid(gamma),  alpha^2 = 1 - sigma^2 = sigmoid(-gamma)                       (Sec. 3)
    (2)  q(z_t | x) = N(alpha_t x, sigma_t^2 I),  z_t = alpha_t x + sigma_t eps                   (Eq. 1)
    (3)  prior loss = KL(q(z_1 | x) || N(0, I))                                                  (Eq. 11)
    (4)  diffusion loss, T steps = T/2 (exp(gamma_t - gamma_s) - 1) |eps - eps_hat|^2, s = t - 1/T (Eq. 14)
    (5)  diffusion loss, continuous = 1/2 gamma'(t) |eps - eps_hat|^2                            (Eq. 17)
    (6)  p(z_s | z_t) = N(alpha_s/alpha_t (z_t - sigma_t c eps_hat), sigma_s^2 c I),
         c = 1 - exp(gamma_s - gamma_t)                                                          (App. A.4)

(4) and (5) are unbiased for a time t drawn uniformly. Every loss is in nats per image, summed over its dimensions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_lib.types import Key, Latents, PerImage


def _over_pixels(per_image: Float[Array, "..."]) -> Float[Array, "..."]:
    """Append axes for height, width and channels to a value per image; scalars broadcast as they are."""
    return per_image[..., None, None, None]


def _sum_per_image(x: Latents) -> PerImage:
    return jnp.sum(x, axis=(1, 2, 3))


def alpha(gamma: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return the scale of the signal, Eq. (1).

    sqrt(sigmoid(-gamma)) would keep digits that this loses for large gamma. But the original rounds in this way, and
    the Fourier features multiply the last bit of z_t by 804.
    """
    return jnp.sqrt(1.0 - jax.nn.sigmoid(gamma))


def sigma(gamma: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return the standard deviation of the noise, Eq. (1)."""
    return jnp.sqrt(jax.nn.sigmoid(gamma))


def q_sample(x: Latents, eps: Latents, gamma_t: PerImage) -> Latents:
    """Return z_t = alpha_t x + sigma_t eps for encoded images x and standard normal eps, Eq. (2)."""
    return _over_pixels(alpha(gamma_t)) * x + _over_pixels(sigma(gamma_t)) * eps


def prior_loss(x: Latents, gamma_1: Float[Array, ""]) -> PerImage:
    """Return KL(q(z_1 | x) || N(0, I)) in nats per image, Eq. (3)."""
    variance = jax.nn.sigmoid(gamma_1)
    return 0.5 * _sum_per_image((1.0 - variance) * jnp.square(x) + variance - jnp.log(variance) - 1.0)


def diffusion_loss_continuous(eps: Latents, eps_hat: Latents, gamma_prime: PerImage) -> PerImage:
    """Return 1/2 gamma'(t) |eps - eps_hat|^2 in nats per image, Eq. (5)."""
    return 0.5 * gamma_prime * _sum_per_image(jnp.square(eps - eps_hat))


def diffusion_loss_discrete(
    eps: Latents, eps_hat: Latents, gamma_s: PerImage, gamma_t: PerImage, timesteps: int
) -> PerImage:
    """Return T/2 (exp(gamma_t - gamma_s) - 1) |eps - eps_hat|^2 in nats per image, Eq. (4)."""
    return 0.5 * timesteps * jnp.expm1(gamma_t - gamma_s) * _sum_per_image(jnp.square(eps - eps_hat))


def discretise_times(t: PerImage, timesteps: int) -> PerImage:
    """Return t rounded up to a multiple of 1/T: uniform t becomes uniform over 1/T, 2/T, ..., 1."""
    return jnp.ceil(t * timesteps) / timesteps


def sample_times(key: Key, num_images: int, *, antithetic: bool) -> PerImage:
    """Return one time in [0, 1) per image.

    Antithetic (App. I.1): one uniform offset u and t_i = (u + i / n) mod 1, which covers [0, 1) evenly, so that
    the mean of the diffusion loss over the batch varies less.
    """
    if antithetic:
        return spread_times(jax.random.uniform(key), num_images)
    return jax.random.uniform(key, (num_images,))


def spread_times(offset: Float[Array, ""], num_images: int) -> PerImage:
    """Return (offset + i / n) mod 1 for i = 0 .. n - 1."""
    return jnp.mod(offset + jnp.arange(num_images) / num_images, 1.0)


def p_sample(
    z_t: Latents, eps_hat: Latents, noise: Latents, gamma_s: Float[Array, ""], gamma_t: Float[Array, ""]
) -> Latents:
    """Return a draw of p(z_s | z_t) for s < t given standard normal noise, Eq. (6)."""
    c = -jnp.expm1(gamma_s - gamma_t)
    ratio = jnp.sqrt(jax.nn.sigmoid(-gamma_s) / jax.nn.sigmoid(-gamma_t))
    mean = ratio * (z_t - sigma(gamma_t) * c * eps_hat)
    return mean + jnp.sqrt((1.0 - jax.nn.sigmoid(-gamma_s)) * c) * noise
