import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.known_answers.models import gaussian
from vdm_lib.bound import DiffusionLoss
from vdm_lib.control import Coefficient, LinearControl, control_params, fit_coefficient

TIMES = (np.arange(1024) + 0.5) / 1024


@pytest.mark.parametrize("kind", ["linear", "none"])
def test_the_control_has_mean_zero_for_every_image_and_time(kind):
    known = gaussian(5)
    runner = known.runner()
    params = control_params(known.model, {}, runner.split, kind)
    assert ("basis" in params) == (kind == "linear")
    control, draws = LinearControl(known.model), 4000
    times = jnp.asarray([0.01, 0.2, 0.5, 0.8, 0.99])
    sample = jax.jit(jax.vmap(lambda key: control(params, jnp.asarray(known.images), jnp.arange(5), times, key)))
    values = np.asarray(sample(jax.random.split(jax.random.key(0), draws)), np.float64)
    # Five values at four errors: one failure in 3,000.
    assert np.all(np.abs(values.mean(axis=0)) < 4.0 * values.std(axis=0) / np.sqrt(draws))
    assert np.all(values.std(axis=0) > 0.0)


def test_it_is_the_loss_of_the_gaussian_model_itself():
    # Images of a Gaussian: the linear denoiser of their covariance is nearly the exact one.
    known = gaussian(2000)
    runner = known.runner()
    params = control_params(known.model, {}, runner.split, "linear")
    key, indices = jax.random.key(1), jnp.arange(200)
    times = jnp.linspace(0.0, 0.99, 200)
    images = jnp.asarray(known.images[:200])
    control = np.asarray(LinearControl(known.model)(params, images, indices, times, key))
    loss = np.asarray(DiffusionLoss(known.model)(known.params, images, indices, times, key))
    gamma, factor = known.model.gamma_and_factor({}, times)
    u = np.exp(np.asarray(gamma))[:, None]
    variance, mean = (np.asarray(known.params[name]).reshape(-1) for name in ("variance", "mean"))
    x = (2.0 * known.images[:200].reshape(200, -1) + 1.0) / known.num_levels - 1.0
    expected = np.asarray(factor) * np.sum((variance**2 + u * (x - mean) ** 2) / (variance + u) ** 2, axis=1)
    rest = loss - expected
    assert np.corrcoef(control, rest)[0, 1] > 0.98
    assert np.var(rest - control) < 0.05 * np.var(rest)


def test_the_coefficient_is_found():
    rng = np.random.default_rng(0)
    control = rng.normal(size=1024)
    losses = 30.0 * TIMES + (1.0 + TIMES) * control + 0.5 * rng.normal(size=1024)
    found = fit_coefficient(TIMES, losses, control)
    np.testing.assert_allclose(found.at(np.array([0.2, 0.5, 0.8])), [1.2, 1.5, 1.8], atol=0.25)


def test_a_control_that_does_not_follow_the_loss_is_left_out():
    for seed in range(20):
        losses, controls = np.random.default_rng(seed).normal(size=(2, 1024))
        assert fit_coefficient(TIMES, losses, controls) == Coefficient()
    assert fit_coefficient(TIMES[:20], TIMES[:20], TIMES[:20]) == Coefficient()
    np.testing.assert_array_equal(Coefficient().at(TIMES), 0.0)
