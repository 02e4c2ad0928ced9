"""What the estimators must find, in float64 NumPy by closed forms and quadrature; nothing here uses vdm_lib.

Every function returns bits per dimension, the mean over the images of a `Known` unless it says otherwise. The
schedule is linear in t.
"""

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from scipy.special import expit, logsumexp

from tests.known_answers.models import GaussianVDM, Known


def ends(known: Known) -> tuple[float, float]:
    return known.model.model.gamma_min, known.model.model.gamma_max


def encoded(known: Known) -> np.ndarray:
    """Images in [-1, 1], [n, d]."""
    return (2.0 * known.images.astype(np.float64).reshape(len(known.images), -1) + 1.0) / known.num_levels - 1.0


def in_bits(known: Known, nats: np.ndarray) -> float:
    return float(np.mean(nats) / np.log(2.0) / np.prod(known.images.shape[1:]))


def gaussian_of(known: Known) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.asarray(known.params[name], np.float64).reshape(-1) for name in ("mean", "variance"))


def squared_error(known: Known, gamma: float) -> np.ndarray:
    """Expected |eps - eps_hat|^2 of each image, [n]."""
    x = encoded(known)
    alpha, sigma = np.sqrt(expit(-gamma)), np.sqrt(expit(gamma))
    if isinstance(known.model, GaussianVDM):
        mean, variance = gaussian_of(known)
        total = alpha**2 * variance + sigma**2
        return np.sum((alpha**2 * variance / total) ** 2 + (sigma * alpha * (x - mean) / total) ** 2, axis=1)
    log_weights, means, variances = (
        np.asarray(known.params[name], np.float64) for name in ("log_weights", "means", "variances")
    )
    means, variances = means.reshape(3, -1), variances.reshape(3, -1)
    nodes, weights = hermegauss(25)
    dims = x.shape[1]
    eps = np.stack(np.meshgrid(*[nodes] * dims), axis=-1).reshape(-1, dims)
    weight = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * dims), axis=-1), axis=-1).reshape(-1)
    z = alpha * x[:, None, None, :] + sigma * eps[None, :, None, :]
    total = alpha**2 * variances + sigma**2
    log_density = log_weights - 0.5 * np.sum((z - alpha * means) ** 2 / total + np.log(total), axis=-1)
    share = np.exp(log_density - logsumexp(log_density, axis=-1, keepdims=True))
    clean = means + alpha * variances / total * (z - alpha * means)
    eps_hat = (z[:, :, 0] - alpha * np.sum(share[..., None] * clean, axis=2)) / sigma
    return np.sum(np.square(eps - eps_hat), axis=-1) @ weight


def squared_error_moment(known: Known, gammas: np.ndarray) -> np.ndarray:
    """Expected |eps - eps_hat|^4 of each image of a Gaussian density at each gamma, [n, m].

    eps - eps_hat = a eps - b y in each dimension, whose square has the mean a^2 + b^2 y^2 and the variance
    2 a^4 + 4 a^2 b^2 y^2.
    """
    mean, variance = gaussian_of(known)
    y_squared = np.square(encoded(known) - mean)
    found = []
    for gamma in gammas:
        alpha_squared, sigma_squared = expit(-gamma), expit(gamma)
        total = alpha_squared * variance + sigma_squared
        a2 = (alpha_squared * variance / total) ** 2
        b2y2 = sigma_squared * alpha_squared / total**2 * y_squared
        found.append(np.square(np.sum(a2 + b2y2, axis=1)) + np.sum(2.0 * a2**2 + 4.0 * a2 * b2y2, axis=1))
    return np.stack(found, axis=1)


def diffusion_loss(known: Known, timesteps: int = 0) -> np.ndarray:
    """Diffusion loss of each distinct image, in nats, by Gauss and Legendre's rule or as the sum over T steps."""
    gamma_0, gamma_1 = ends(known)
    if timesteps:
        gammas = np.linspace(gamma_0, gamma_1, timesteps + 1)
        factors = 0.5 * np.expm1(np.diff(gammas))
        gammas = gammas[1:]
    else:
        nodes, weights = leggauss(48)
        gammas = gamma_0 + (gamma_1 - gamma_0) * (nodes + 1.0) / 2.0
        factors = 0.5 * weights * (gamma_1 - gamma_0) / 2.0
    return sum(factor * squared_error(known, gamma) for factor, gamma in zip(factors, gammas, strict=True))


def decoder_log_prob(known: Known, y: np.ndarray) -> np.ndarray:
    """log p(v | y) of every level v at every y: [..., levels]."""
    levels = (2.0 * np.arange(known.num_levels) + 1.0) / known.num_levels - 1.0
    logits = -0.5 * (y[..., None] - levels) ** 2 * np.exp(-ends(known)[0])
    return logits - logsumexp(logits, axis=-1, keepdims=True)


_bounds: dict[tuple[int, int], tuple[Known, float]] = {}


def bound(known: Known, timesteps: int = 0) -> float:
    """The variational bound; kept, as its quadrature in two dimensions takes seconds."""
    key = (id(known), timesteps)
    if key not in _bounds:
        # The images are kept with it, so that no other object takes over the id.
        _bounds[key] = (known, _bound(known, timesteps))
    return _bounds[key][1]


def _bound(known: Known, timesteps: int) -> float:
    gamma_0, gamma_1 = ends(known)
    levels = (2.0 * np.arange(known.num_levels) + 1.0) / known.num_levels - 1.0
    eps = np.linspace(-9.0, 9.0, 2001)
    weight = np.exp(-0.5 * eps**2) / np.exp(-0.5 * eps**2).sum()
    recon = np.array(
        [-weight @ decoder_log_prob(known, y + np.exp(gamma_0 / 2) * eps)[:, v] for v, y in enumerate(levels)]
    )
    variance = expit(gamma_1)
    prior = 0.5 * (expit(-gamma_1) * levels**2 + variance - np.log(variance) - 1.0)
    per_image = (recon + prior)[known.images].reshape(len(known.images), -1).sum(axis=1)
    return in_bits(known, per_image + diffusion_loss(known, timesteps))


def _log_normal(y: np.ndarray, mean: np.ndarray | float, variance: np.ndarray | float) -> np.ndarray:
    return -0.5 * ((y - mean) ** 2 / variance + np.log(2.0 * np.pi * variance))


def flow_log_density(known: Known, y: np.ndarray) -> np.ndarray:
    """log density of y_0 = z_0 / alpha_0 under the ODE of a Gaussian, which is affine: [..., d], one per dimension."""
    gamma_0, gamma_1 = ends(known)
    mean, variance = gaussian_of(known)
    growth = np.sqrt((variance + np.exp(gamma_1)) / (variance + np.exp(gamma_0)))
    alpha_1 = np.sqrt(expit(-gamma_1))
    return _log_normal(alpha_1 * (mean + growth * (y - mean)), 0.0, 1.0) + np.log(alpha_1 * growth)


def chain_log_density(known: Known, y: np.ndarray, timesteps: int) -> np.ndarray:
    """The same under the reverse chain of T steps, which is linear and Gaussian."""
    mean, variance = gaussian_of(known)
    gammas = np.linspace(*ends(known), timesteps + 1)
    m, v = np.zeros_like(mean), np.ones_like(mean)
    for s, t in zip(gammas[-2::-1], gammas[:0:-1], strict=True):
        alpha, sigma = np.sqrt(expit(-t)), np.sqrt(expit(t))
        c = -np.expm1(s - t)
        ratio = np.sqrt(expit(-s)) / alpha
        gain = sigma / (alpha**2 * variance + sigma**2)
        slope = ratio * (1.0 - sigma * c * gain)
        m = slope * m + ratio * sigma * c * gain * alpha * mean
        v = slope**2 * v + expit(s) * c
    alpha_0 = np.sqrt(expit(-gammas[0]))
    return _log_normal(y, m / alpha_0, v / alpha_0**2)


def likelihood(known: Known, timesteps: int | None = None) -> float:
    """-log p(x) of Gaussian images, exact up to quadrature: by the ODE, or by the chain of T steps."""
    y = np.linspace(-1.6, 1.6, 6001)
    grid = np.repeat(y[:, None], len(gaussian_of(known)[0]), axis=1)
    log_density = flow_log_density(known, grid) if timesteps is None else chain_log_density(known, grid, timesteps)
    # [levels, d]: the integral of p(v | y) p(y).
    table = np.exp(decoder_log_prob(known, y)).T @ np.exp(log_density) * (y[1] - y[0])
    flat = known.images.reshape(len(known.images), -1)
    return in_bits(known, -np.log(table[flat, np.arange(flat.shape[1])]).sum(axis=1))


def ode_bound(known: Known, dequantisation: str) -> float:
    """The bound that one sample of y_0 gives for Gaussian images by the ODE."""
    gamma_0, _ = ends(known)
    half_bin = np.exp(-gamma_0 / 2) / known.num_levels
    widest = 9.0 if dequantisation == "decoder" else half_bin
    eps = np.linspace(-widest, widest, 1201)
    weight = np.exp(-0.5 * eps**2)
    weight[[0, -1]] /= 2.0
    mass = weight.sum() * (eps[1] - eps[0]) / np.sqrt(2.0 * np.pi)
    weight /= weight.sum()
    levels = (2.0 * np.arange(known.num_levels) + 1.0) / known.num_levels - 1.0
    log_q = -0.5 * eps**2 - 0.5 * np.log(2.0 * np.pi) - gamma_0 / 2 - np.log(mass)
    dims = len(gaussian_of(known)[0])
    table = np.empty((known.num_levels, dims))
    for v, level in enumerate(levels):
        y = level + np.exp(gamma_0 / 2) * eps
        nats = log_q[:, None] - flow_log_density(known, np.repeat(y[:, None], dims, axis=1))
        if dequantisation == "decoder":
            nats = nats - decoder_log_prob(known, y)[:, v, None]
        table[v] = weight @ nats
    flat = known.images.reshape(len(known.images), -1)
    return in_bits(known, table[flat, np.arange(dims)].sum(axis=1))


def mixture_ode_bound(known: Known) -> float:
    """The decoder's bound by the ODE of a one-dimensional mixture whose z_1 is standard normal to rounding.

    The ODE then carries the density of y_0: the mixture with exp(gamma_0) added to its variances.
    """
    gamma_0, _ = ends(known)
    log_weights, means, variances = (
        np.asarray(known.params[name], np.float64).reshape(3) for name in ("log_weights", "means", "variances")
    )
    eps = np.linspace(-9.0, 9.0, 2001)
    weight = np.exp(-0.5 * eps**2) / np.exp(-0.5 * eps**2).sum()
    nats = np.empty(known.num_levels)
    for v in range(known.num_levels):
        y = (2.0 * v + 1.0) / known.num_levels - 1.0 + np.exp(gamma_0 / 2) * eps
        log_density = logsumexp(log_weights + _log_normal(y[:, None], means, variances + np.exp(gamma_0)), axis=1)
        log_q = _log_normal(eps, 0.0, 1.0) - gamma_0 / 2
        nats[v] = weight @ (log_q - log_density - decoder_log_prob(known, y)[:, v])
    return in_bits(known, nats[known.images.reshape(-1)])
