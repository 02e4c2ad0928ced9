"""Samplers on data of a known normal density, for which the flow of the noise to the image is known too."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.known_answers.models import gaussian
from vdm_lib import diffusion, sampling
from vdm_lib.errors import ConfigError
from vdm_lib.likelihood import decode
from vdm_lib.samplers import solvers
from vdm_lib.samplers.sampler import Sampler

KNOWN = gaussian(1)
MODEL, PARAMS = KNOWN.model, KNOWN.params
GAMMA_0, GAMMA_1 = MODEL.model.gamma_min, MODEL.model.gamma_max
# Of a right sampler one of 24 tests fails by chance once in 10,000 runs.
LEVEL = 1e-4 / 24


@partial(jax.jit, static_argnums=(0, 1))
def latents(sampler, num_images, num_steps, seed=0):
    z_1, key_steps = sampling.start(MODEL, jax.random.key(seed), num_images)
    return z_1, sampling.denoise(MODEL, PARAMS, sampler, z_1, key_steps, num_steps)


def moments(gamma):
    """Return mean and variance of z at -log SNR gamma."""
    alpha = np.asarray(diffusion.alpha(jnp.float32(gamma)), np.float64)
    mean, variance = (np.asarray(PARAMS[name], np.float64) for name in ("mean", "variance"))
    return alpha * mean, alpha**2 * variance + 1.0 - alpha**2


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm", 2)])
@pytest.mark.parametrize("spacing", ["time", "log_snr"])
def test_the_error_falls_with_the_stated_order(solver, order, spacing):
    """The flow of normals keeps the quantile: (z_0 - mean_0) / deviation_0 is what it was at t = 1."""
    (mean_0, variance_0), (mean_1, variance_1) = moments(GAMMA_0), moments(GAMMA_1)
    errors, counts = [], np.array([20, 40, 80])
    for num_steps in counts:
        z_1, z_0 = latents(Sampler(solver, spacing), 64, int(num_steps))
        exact = mean_0 + (np.asarray(z_1, np.float64) - mean_1) * np.sqrt(variance_0 / variance_1)
        errors.append(np.sqrt(np.mean(np.square(z_0 - exact))))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.25)


@pytest.mark.parametrize(("solver", "order"), [("ancestral", 1), ("dpm_sde", 2)])
def test_the_error_of_the_variance_falls_with_the_stated_order(solver, order):
    """Each step is linear in z, in the image before and in its noise: on unit vectors it shows the matrix of the chain.

    From that follows the variance of z_0 without a draw.
    """
    step = solvers.ancestral if solver == "ancestral" else solvers.dpm_sde
    variance_of_data, counts, errors = 0.1, np.array([40, 80, 160]), []
    unit = jnp.eye(3).reshape(3, 3, 1, 1, 1)

    def gain(gamma):
        """Return d x_hat / d z of normal data without a mean."""
        alpha_2 = jax.nn.sigmoid(-gamma)
        return jnp.sqrt(alpha_2) * variance_of_data / (alpha_2 * variance_of_data + jax.nn.sigmoid(gamma))

    @jax.jit
    def matrix(s, t, before):
        z, x_before, noise = unit
        eps_hat = (z - diffusion.alpha(t) * gain(t) * z) / diffusion.sigma(t)
        chain = step(solvers.Chain(z, x_before), eps_hat, solvers.Gammas(s, t, before), noise)
        return jnp.stack([chain.z.ravel(), chain.x_hat.ravel()])

    def variance(gamma):
        alpha_2 = float(jax.nn.sigmoid(-jnp.float32(gamma)))
        return alpha_2 * variance_of_data + 1.0 - alpha_2

    for num_steps in counts:
        gammas = np.linspace(GAMMA_1, GAMMA_0, num_steps + 1, dtype=np.float32)
        covariance = np.diag([variance(GAMMA_1), 0.0])
        for i in range(num_steps):
            of_step = np.asarray(matrix(gammas[i + 1], gammas[i], gammas[max(i - 1, 0)]), np.float64)
            of_chain, of_noise = of_step[:, :2], of_step[:, 2:]
            covariance = of_chain @ covariance @ of_chain.T + of_noise @ of_noise.T
        errors.append(abs(covariance[0, 0] / variance(GAMMA_0) - 1.0))
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.25)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm", "dpm_sde"])
def test_samples_have_the_distribution_of_the_data(solver):
    _, z_0 = latents(Sampler(solver), 3000, 300 if solver in ("dpm", "dpm_sde") else 1500)
    mean, variance = moments(GAMMA_0)
    standard = (np.asarray(z_0, np.float64) - mean) / np.sqrt(variance)
    for values in standard.reshape(len(standard), -1).T:
        assert stats.kstest(values, "norm").pvalue > LEVEL


def test_the_test_of_the_distribution_can_fail():
    _, z_0 = latents(Sampler("ancestral"), 3000, 10)
    mean, variance = moments(GAMMA_0)
    standard = (np.asarray(z_0, np.float64) - mean) / np.sqrt(variance)
    assert min(stats.kstest(values, "norm").pvalue for values in standard.reshape(len(standard), -1).T) < LEVEL


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm", "dpm_sde"])
@pytest.mark.parametrize("decoding", [pytest.param("argmax", marks=pytest.mark.slow), "categorical"])
def test_an_image_does_not_depend_on_how_many_are_drawn(solver, decoding):
    draw = jax.jit(
        lambda num: sampling.sample(MODEL, PARAMS, jax.random.key(3), num, 5, Sampler(solver, decoding=decoding)),
        static_argnums=0,
    )
    np.testing.assert_array_equal(draw(2), draw(5)[:2])


def test_one_program_serves_every_number_of_steps():
    sampler = Sampler("dpm")
    before = latents._cache_size()
    for num_steps in (3, 7, 11):
        latents(sampler, 9, num_steps)
    assert latents._cache_size() == before + 1


def test_drawn_levels_have_the_distribution_of_the_decoder():
    num, num_levels = 4000, KNOWN.num_levels
    shape = MODEL.data.image_shape
    z_0_rescaled = np.full((num, *shape), 0.03, np.float32)
    z_0 = z_0_rescaled * diffusion.alpha(jnp.float32(GAMMA_0))
    draw = jax.jit(lambda z, key: sampling.levels(MODEL, PARAMS, z, Sampler(decoding="categorical"), key))
    drawn = np.asarray(draw(z_0, jax.random.key(0))).ravel()
    expected = np.exp(decode(jnp.float32(0.03), jnp.float32(GAMMA_0), num_levels)) * drawn.size
    common = np.asarray(expected) > 20
    observed = np.bincount(drawn, minlength=num_levels)
    rest = [observed[~common].sum(), float(expected[~common].sum())]
    table = np.append(observed[common], rest[0]), np.append(expected[common], rest[1])
    assert stats.chisquare(*table, sum_check=False).pvalue > LEVEL


@pytest.mark.parametrize("wrong", ["solver", "spacing", "decoding"])
def test_an_unknown_choice_is_refused_by_its_name(wrong):
    # In a process of its own: in this one the type is refused before.
    code = f"from vdm_lib.samplers.sampler import Sampler\nSampler({wrong}='euler')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ConfigError: {wrong} must be one of" in done.stderr


@pytest.mark.parametrize(("num", "steps"), [(0, 5), (5, 0)])
def test_no_images_or_no_steps_are_refused(num, steps):
    with pytest.raises(ConfigError, match="at least one image and one step"):
        sampling.sample(MODEL, PARAMS, jax.random.key(0), num, steps)
