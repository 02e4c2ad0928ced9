import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.known_answers.models import gaussian
from vdm_lib.evaluation.bound import DiffusionLoss
from vdm_lib.evaluation.control import Coefficient, fit_coefficients, make_controls, without_controls
from vdm_lib.evaluation.level_control import LevelControl
from vdm_lib.evaluation.linear_control import ImageControl, LinearControl

TIMES = (np.arange(1024) + 0.5) / 1024


def control_of(known, kind):
    return next(each for each in make_controls(known.model, known.runner(), "linear_and_levels")
                if isinstance(each.estimate, kind))  # fmt: skip


def test_which_controls_there_are():
    known = gaussian(5)
    kinds = {
        name: [type(each.estimate) for each in make_controls(known.model, known.runner(), name)]
        for name in ("linear_and_levels", "linear", "none")
    }
    linear = [LinearControl, ImageControl]
    assert kinds == {"linear_and_levels": [*linear, LevelControl], "linear": linear, "none": []}


@pytest.mark.parametrize("most_dims", [4096, 5])
@pytest.mark.parametrize("kind", [LinearControl, LevelControl])
def test_the_control_has_mean_zero_for_every_image_and_time(kind, most_dims, monkeypatch):
    monkeypatch.setattr("vdm_lib.evaluation.linear_control._MOST_DIMS", most_dims)
    known = gaussian(5, num_levels=8)
    control = control_of(known, kind)
    params, draws = control.runner.params, 4000
    times = jnp.asarray([0.01, 0.2, 0.5, 0.8, 0.99])
    estimate = control.estimate
    sample = jax.jit(jax.vmap(lambda key: estimate(params, jnp.asarray(known.images), None, jnp.arange(5), times, key)))
    values = np.asarray(sample(jax.random.split(jax.random.key(0), draws)), np.float64)
    # Five values at four errors: one failure in 3,000.
    assert np.all(np.abs(values.mean(axis=0)) < 4.0 * values.std(axis=0) / np.sqrt(draws))
    assert np.all(values.std(axis=0) > 0.0)


def test_the_linear_control_is_the_loss_of_the_gaussian_model_itself():
    # Images of a Gaussian: the linear denoiser of their covariance is nearly the exact one.
    known = gaussian(2000)
    params = control_of(known, LinearControl).runner.params
    key, indices = jax.random.key(1), jnp.arange(200)
    times = jnp.linspace(0.0, 0.99, 200)
    images = jnp.asarray(known.images[:200])
    control = np.asarray(LinearControl(known.model)(params, images, None, indices, times, key))
    loss = np.asarray(DiffusionLoss(known.model)(known.params, images, None, indices, times, key))
    gamma, factor = known.model.gamma_and_factor({}, times)
    u = np.exp(np.asarray(gamma))[:, None]
    variance, mean = (np.asarray(known.params[name]).reshape(-1) for name in ("variance", "mean"))
    x = (2.0 * known.images[:200].reshape(200, -1) + 1.0) / known.num_levels - 1.0
    expected = np.asarray(factor) * np.sum((variance**2 + u * (x - mean) ** 2) / (variance + u) ** 2, axis=1)
    rest = loss - expected
    assert np.corrcoef(control, rest)[0, 1] > 0.98
    assert np.var(rest - control) < 0.05 * np.var(rest)


def test_the_level_control_is_the_loss_of_a_histogram_itself():
    # Two levels of known shares, in float64 from Bayes' rule: p(1 | z) of the two normals about their values.
    known = gaussian(40, num_levels=2, gamma_0=-2.0)
    control = control_of(known, LevelControl)
    share = np.exp(np.asarray(control.runner.params["log_prior"], np.float64))
    assert share.sum() == pytest.approx(1.0)
    times, key = np.linspace(0.0, 0.99, 40).astype(np.float32), jax.random.key(1)
    found = control(times, key)
    gamma, factor = (np.asarray(each, np.float64) for each in known.model.gamma_and_factor({}, jnp.asarray(times)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    x = known.images.reshape(40, -1) - 0.5
    eps = np.asarray(jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2, 3, 1)))(jnp.arange(40)))

    def squared_error(x, eps, u):
        z = x + np.sqrt(u) * eps
        ratio = share[1] / share[0] * np.exp((-((z - 0.5) ** 2) + (z + 0.5) ** 2) / (2.0 * u))
        return (ratio / (1.0 + ratio) - 0.5 - x) ** 2 / u

    u = np.exp(gamma)[:, None]
    drawn = squared_error(x, eps.reshape(40, -1), u).sum(axis=1)
    expected = (squared_error(x[..., None], nodes, u[..., None]) @ (weights / weights.sum())).sum(axis=1)
    np.testing.assert_allclose(found, factor * (drawn - expected), rtol=1e-4, atol=1e-4 * factor.max())


def test_the_coefficients_are_found():
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(2, 1024))
    # The second follows the first: each still gets its own.
    controls[1] += controls[0]
    losses = 30.0 * TIMES + (1.0 + TIMES) * controls[0] + 0.5 * controls[1] + 0.5 * rng.normal(size=1024)
    found = fit_coefficients(TIMES, losses, list(controls))
    for each, expected in zip(found, ([1.2, 1.5, 1.8], [0.5, 0.5, 0.5]), strict=True):
        np.testing.assert_allclose(each.at(np.array([0.2, 0.5, 0.8])), expected, atol=0.25)
    assert np.var(without_controls(losses, list(controls), found, TIMES) - 30.0 * TIMES) < 1.15 * 0.25


def test_controls_that_are_the_same_share_a_coefficient():
    control = np.random.default_rng(0).normal(size=1024)
    found = fit_coefficients(TIMES, control, [control, control])
    np.testing.assert_allclose([each.at(TIMES) for each in found], 0.5, atol=1e-6)


@pytest.mark.parametrize("draws", [256, 1024])
def test_controls_that_do_not_follow_the_loss_are_left_out_or_cost_little(draws):
    times, rng = (np.arange(draws) + 0.5) / draws, np.random.default_rng(0)
    costs = []
    for _ in range(20):
        losses, *controls = rng.normal(size=(3, draws))
        found = fit_coefficients(times, losses, controls)
        costs.append(sum(np.mean(each.at(times) ** 2) for each in found))
    # Controls of variance 1 that are independent of the loss add the square of their coefficients to its variance.
    assert np.mean(costs) < 0.05


def test_few_draws_and_no_controls_give_no_coefficients():
    assert fit_coefficients(TIMES[:20], TIMES[:20], [np.zeros(20)]) == ()
    assert fit_coefficients(TIMES, TIMES, []) == ()
    np.testing.assert_array_equal(without_controls(TIMES, [TIMES], (), TIMES), TIMES)


@pytest.mark.parametrize("timesteps", [0, 3])
def test_what_the_image_control_takes_off_is_put_back(timesteps):
    known = gaussian(50).with_timesteps(timesteps)
    control = control_of(known, ImageControl)
    coefficient = Coefficient((0.5, 2.0, 1.0))
    # A grid that neither the knots nor the steps divide, fine enough for both.
    grid = (np.arange(1999) + 0.5) / 1999
    taken_off = [coefficient.at(t) * control(t, jax.random.key(0)) for t in np.tile(grid, (50, 1)).T.astype(np.float32)]
    put_back = control.put_back(coefficient)
    assert np.std(put_back) > 0.1
    np.testing.assert_allclose(np.mean(taken_off, axis=0), put_back, rtol=2e-3, atol=2e-3)
    # And over all images of the split nothing is taken off at any time.
    assert abs(np.mean(taken_off[700])) < 1e-5 * np.std(taken_off[700])
    assert control_of(known, LinearControl).put_back(coefficient).tolist() == [0.0] * 50


def test_without_an_eigenbasis_there_is_no_image_control(monkeypatch):
    monkeypatch.setattr("vdm_lib.evaluation.linear_control._MOST_DIMS", 5)
    known = gaussian(5)
    controls = make_controls(known.model, known.runner(), "linear_and_levels")
    assert [type(each.estimate) for each in controls] == [LinearControl, LevelControl]
