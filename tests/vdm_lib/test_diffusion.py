import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from vdm_lib import diffusion

SHAPE = (3, 2, 2, 3)


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("gamma", [-13.3, -2.0, 0.0, 5.0, 30.0])
def test_alpha_and_sigma(gamma):
    alpha, sigma = diffusion.alpha(jnp.asarray(gamma)), diffusion.sigma(jnp.asarray(gamma))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    # 1 - sigmoid(gamma) is a multiple of 2^-24, the last bit below 1: alpha^2 has that error, as in the original.
    np.testing.assert_allclose(alpha**2, 1.0 / (1.0 + np.exp(gamma)), rtol=1e-6, atol=2.0**-24)
    np.testing.assert_allclose(sigma**2, 1.0 / (1.0 + np.exp(-gamma)), rtol=1e-6)


def test_q_sample():
    x, eps, gamma_t = normal(0), normal(1), jnp.asarray([-5.0, 0.0, 3.0])
    variance = expit(np.asarray(gamma_t, np.float64))[:, None, None, None]
    expected = np.sqrt(1.0 - variance) * np.asarray(x) + np.sqrt(variance) * np.asarray(eps)
    np.testing.assert_allclose(diffusion.q_sample(x, eps, gamma_t), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma_1", [-2.0, 0.0, 3.0])
def test_prior_loss_is_the_divergence_between_gaussians(gamma_1):
    x = normal(0)
    # KL(N(m, s^2) || N(0, 1)) = log(1 / s) + (s^2 + m^2 - 1) / 2, in float64.
    std = np.sqrt(expit(gamma_1))
    mean = np.sqrt(1.0 - std**2) * np.asarray(x, np.float64)
    expected = (-np.log(std) + (std**2 + mean**2 - 1.0) / 2.0).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(diffusion.prior_loss(x, jnp.asarray(gamma_1)), expected, rtol=1e-5)


@pytest.mark.parametrize(("gamma_s", "gamma_t"), [(-13.3, -13.0), (-4.0, -3.0), (0.0, 2.0), (-6.0, 5.0)])
def test_p_sample_is_the_posterior_given_the_predicted_image(gamma_s, gamma_t):
    z_t, eps_hat, noise = normal(0), normal(1), normal(2)
    z_s = diffusion.p_sample(z_t, eps_hat, noise, jnp.asarray(gamma_s), jnp.asarray(gamma_t))

    # Bayes' rule in float64: prior z_s ~ N(alpha_s x, var_s), likelihood z_t ~ N(r z_s, var_t - r^2 var_s).
    var_s, var_t = expit(gamma_s), expit(gamma_t)
    alpha_s, alpha_t = np.sqrt(expit(-gamma_s)), np.sqrt(expit(-gamma_t))
    z, e, n = (np.asarray(a, np.float64) for a in (z_t, eps_hat, noise))
    x = (z - np.sqrt(var_t) * e) / alpha_t
    ratio = alpha_t / alpha_s
    var_likelihood = var_t - ratio**2 * var_s
    precision = 1.0 / var_s + ratio**2 / var_likelihood
    mean = (alpha_s * x / var_s + ratio * z / var_likelihood) / precision
    np.testing.assert_allclose(z_s, mean + n / np.sqrt(precision), rtol=2e-4, atol=2e-5)


def test_discrete_loss_tends_to_the_continuous_loss():
    eps, eps_hat = normal(0), normal(1)
    t = jnp.asarray([0.2, 0.5, 0.9])
    slope = 18.3
    exact = diffusion.diffusion_loss_continuous(eps, eps_hat, jnp.full(3, slope))
    errors = []
    for timesteps in (10, 100, 1000):
        gamma_s, gamma_t = slope * (t - 1.0 / timesteps) - 13.3, slope * t - 13.3
        loss = diffusion.diffusion_loss_discrete(eps, eps_hat, gamma_s, gamma_t, timesteps)
        assert np.all(loss > exact)  # exp is convex: fewer steps cost more
        errors.append(float(jnp.max(loss / exact - 1.0)))
    # The leading term is slope / (2 T).
    np.testing.assert_allclose(errors[1:], [0.0915, 0.00915], rtol=0.1)
    assert errors[0] > errors[1] > errors[2]


@given(t=st.floats(0.0, 1.0, exclude_max=True, width=32), timesteps=st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_discretised_times_are_multiples_not_before_t(t, timesteps):
    step = float(diffusion.discretise_times(jnp.asarray([t], jnp.float32), timesteps)[0]) * timesteps
    assert step == pytest.approx(round(step), abs=1e-3)
    assert -1e-3 <= step - t * timesteps <= 1.0 + 1e-3


# Few sizes: each is compiled.
@given(num_images=st.sampled_from([1, 2, 3, 7, 128, 300]), offset=st.floats(0.0, 1.0, exclude_max=True, width=32))
@settings(max_examples=60, deadline=None)
def test_spread_times_cover_the_interval_evenly(num_images, offset):
    times = np.asarray(diffusion.spread_times(jnp.asarray(offset, jnp.float32), num_images), np.float64)
    assert times.shape == (num_images,)
    assert np.all((times >= 0.0) & (times < 1.0))
    around = np.sort(times)
    gaps = np.diff(np.append(around, around[0] + 1.0))
    np.testing.assert_allclose(gaps, 1.0 / num_images, atol=1e-6)


@pytest.mark.parametrize("antithetic", [True, False])
def test_sampled_times_are_uniform(antithetic):
    keys = jax.random.split(jax.random.key(0), 500)
    sample = jax.vmap(lambda key: diffusion.sample_times(key, 4, antithetic=antithetic))(keys)
    counts, _ = np.histogram(sample, bins=10, range=(0.0, 1.0))
    # 200 expected in each bin, standard deviation below 14.
    np.testing.assert_allclose(counts, 200, atol=70)
    if antithetic:
        np.testing.assert_allclose(np.diff(np.sort(sample, axis=1), axis=1), 0.25, atol=1e-6)
