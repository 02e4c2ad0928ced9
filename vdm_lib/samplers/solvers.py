"""One step of sampling, from z_t to z_s with less noise, as a function of the network's estimate and the log-SNR.

With gamma = -log SNR, lambda = -gamma / 2 = log(alpha / sigma), h = lambda_s - lambda_t > 0 and the network's estimate
of the image x_hat = (z_t - sigma_t eps_hat) / alpha_t:

    (1)  ancestral  z_s drawn from p(z_s | z_t), Eq. (6) of `diffusion`; the original's
    (2)  ddim       z_s = sigma_s / sigma_t z_t + alpha_s (1 - exp(-h)) x_hat
                    DDIM without noise (Song et al., arXiv 2010.02502)
    (3)  dpm        (2) with x_hat + (x_hat - x_hat of the step before) / (2 r), r = h of the step before / h
                    DPM-Solver++ 2M (Lu et al., arXiv 2211.01095, Algorithm 2)
    (4)  dpm_sde    (1) with the image of (3), and the noise that belongs to it
                    SDE-DPM-Solver++ 2M (the same, Section 4.4)

(2) and (3) solve the ordinary differential equation that has the distributions of the diffusion: all their randomness
is in where they start. Their errors fall with the first and the second power of h, and they hold for h < 0 too, which
leads from an image to its noise. (1) and (4) solve the stochastic one; the errors of what they draw, as a distribution,
fall with the first and the second power. A step calls the network once.
"""

from typing import NamedTuple

import jax.numpy as jnp

from vdm_lib import diffusion
from vdm_lib.types import Latents, Scalar


class Gammas(NamedTuple):
    """-log SNR along the chain, falling from `before` over `t` to `s`; rising where a flow is followed backwards."""

    s: Scalar
    """Where the step ends."""
    t: Scalar
    """Where it starts."""
    before: Scalar
    """Where the step before started; that of `t` at the first step, which has none before it."""


class Chain(NamedTuple):
    """How far sampling has come."""

    z: Latents
    x_hat: Latents
    """Estimate of the image by the step before: for pictures, and for the solver of second order."""


def estimate_image(z_t: Latents, eps_hat: Latents, gamma_t: Scalar) -> Latents:
    """Return x_hat, the image in z_t if eps_hat is the noise in it."""
    return (z_t - diffusion.sigma(gamma_t) * eps_hat) / diffusion.alpha(gamma_t)


def ancestral(chain: Chain, eps_hat: Latents, gammas: Gammas, noise: Latents) -> Chain:
    """Return the chain after a draw of p(z_s | z_t) given standard normal noise, Eq. (1)."""
    z_s = diffusion.p_sample(chain.z, eps_hat, noise, gammas.s, gammas.t)
    return Chain(z_s, estimate_image(chain.z, eps_hat, gammas.t))


def ddim(chain: Chain, eps_hat: Latents, gammas: Gammas) -> Chain:
    """Return the chain after one step of first order, Eq. (2)."""
    x_hat = estimate_image(chain.z, eps_hat, gammas.t)
    return Chain(_towards(x_hat, chain.z, gammas), x_hat)


def dpm(chain: Chain, eps_hat: Latents, gammas: Gammas) -> Chain:
    """Return the chain after one step of second order, Eq. (3); the first step of a chain is of first order."""
    x_hat = estimate_image(chain.z, eps_hat, gammas.t)
    return Chain(_towards(_extrapolated(chain, x_hat, gammas), chain.z, gammas), x_hat)


def dpm_sde(chain: Chain, eps_hat: Latents, gammas: Gammas, noise: Latents) -> Chain:
    """Return the chain after one step of second order given standard normal noise, Eq. (4); the first is Eq. (1)."""
    x_hat = estimate_image(chain.z, eps_hat, gammas.t)
    image = _extrapolated(chain, x_hat, gammas)
    eps = (chain.z - diffusion.alpha(gammas.t) * image) / diffusion.sigma(gammas.t)
    return Chain(diffusion.p_sample(chain.z, eps, noise, gammas.s, gammas.t), x_hat)


def _extrapolated(chain: Chain, x_hat: Latents, gammas: Gammas) -> Latents:
    """Return the image half a step on, by the change since the step before; x_hat itself at the first step."""
    length, before = gammas.t - gammas.s, gammas.before - gammas.t
    has_before = before != 0
    slope = jnp.where(has_before, 0.5 * length / jnp.where(has_before, before, 1.0), 0.0)
    return x_hat + slope * (x_hat - chain.x_hat)


def _towards(image: Latents, z_t: Latents, gammas: Gammas) -> Latents:
    """Return z_s if the image were the same all the way from t to s, which makes Eq. (2) exact."""
    ratio = diffusion.sigma(gammas.s) / diffusion.sigma(gammas.t)
    return ratio * z_t - diffusion.alpha(gammas.s) * jnp.expm1(0.5 * (gammas.s - gammas.t)) * image
