"""The interior of the schedule: it leaves the bound as it is and changes its variance as computed by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.known_answers import truths
from tests.known_answers.checks import FITTED, PLAIN, assert_within_errors, bound_report
from tests.known_answers.models import GAMMA_0, GAMMA_1, GaussianVDM, Known, gaussian, model_config
from vdm_lib.evaluation.bound import make_bound
from vdm_lib.likelihood import encode, nats_to_bpd

KNOWN = gaussian()
INTERIOR = ("weights", "centres", "steepnesses")
MODEL = GaussianVDM(data=KNOWN.model.data, model=replace(model_config(), gamma_type="learnable_monotone"))


def with_interior(interior):
    ends = {"gamma_0": jnp.float32(GAMMA_0), "gamma_1": jnp.float32(GAMMA_1)}
    return Known(MODEL, {**KNOWN.params, "gamma": ends | interior}, KNOWN.images)


def drawn(seed, scale):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {name: scale * jax.random.normal(key, (32,)) for name, key in zip(INTERIOR, keys, strict=True)}


@pytest.mark.parametrize(("scale", "how"), [(0.3, PLAIN), (0.3, FITTED)])
def test_the_bound_does_not_depend_on_the_interior(scale, how):
    report = bound_report(with_interior(drawn(1, scale)), how=how, passes=16)
    assert_within_errors(report, truths.bound(KNOWN))


@pytest.mark.parametrize("kind", ["beta_linear", "cosine"])
def test_nor_on_a_fixed_way_between_the_end_points(kind):
    known = with_interior(drawn(1, 0.3))
    report = bound_report(replace(known, model=replace(MODEL, schedule=kind)), how=PLAIN, passes=16)
    assert_within_errors(report, truths.bound(KNOWN))


def times_and_gammas(known):
    t = (np.arange(4000) + 0.5) / 4000
    gamma, slope = jax.jit(known.model.gamma_and_slope)(known.params, jnp.asarray(t, jnp.float32))
    return np.asarray(gamma, np.float64), np.asarray(slope, np.float64)


def variance_by_hand(known):
    """E over t of gamma'^2 / 4 E|eps - eps_hat|^4, less the square of the mean, in bpd, over images as well."""
    gamma, slope = times_and_gammas(known)
    second = 0.25 * slope**2 * truths.squared_error_moment(known, gamma).mean(axis=0)
    scale = np.log(2.0) * known.model.data.num_dims
    mean = truths.diffusion_loss(KNOWN).mean()
    return (second.mean() - mean**2) / scale**2


def smallest_variance():
    """No schedule can do better: by Cauchy and Schwarz E over t of a square is least where it is constant."""
    gamma = np.linspace(GAMMA_0, GAMMA_1, 4001)
    root = np.sqrt(truths.squared_error_moment(KNOWN, gamma).mean(axis=0))
    scale = np.log(2.0) * KNOWN.model.data.num_dims
    second = np.square(0.5 * np.trapezoid(root, gamma))
    return (second - np.square(truths.diffusion_loss(KNOWN).mean())) / scale**2


def drawn_variance(known, num_draws=200_000):
    rng, x = np.random.default_rng(0), encode(jnp.asarray(known.images), known.num_levels)
    which = jnp.asarray(rng.integers(0, len(known.images), num_draws))
    t = jnp.asarray((np.arange(num_draws) + rng.random(num_draws)) / num_draws, jnp.float32)
    eps = jax.random.normal(jax.random.key(7), (num_draws, *x.shape[1:]))
    loss = jax.jit(known.model.diffusion_loss)(known.params, x[which], jnp.zeros(num_draws, jnp.int32), t, eps)
    bpd = np.asarray(nats_to_bpd(loss, known.model.data.num_dims), np.float64)
    squares = np.square(bpd - bpd.mean())
    return squares.mean(), squares.std() / np.sqrt(num_draws)


@pytest.mark.parametrize("scale", [0.0, 0.1, 0.3])
def test_the_variance_is_that_computed_by_hand(scale):
    known = with_interior(drawn(1, scale))
    found, error = drawn_variance(known)
    assert abs(found - variance_by_hand(known)) < 4.0 * error
    assert error < 0.03 * found


@pytest.mark.parametrize("how", [PLAIN, FITTED])
def test_an_evaluation_reports_the_variance_of_plain_estimates(how):
    """Whatever density and control variates it takes itself; with the images' share, as the report has it."""
    known = with_interior(drawn(1, 0.3))
    report = bound_report(known, how=how, passes=64)
    gamma, slope = times_and_gammas(known)
    by_image = (truths.diffusion_loss(KNOWN) / np.log(2.0) / 6.0) + make_bound(MODEL, known.runner(), 0, *PLAIN).exact
    within = variance_by_hand(known) - np.var(truths.diffusion_loss(KNOWN)) / (np.log(2.0) * 6.0) ** 2
    assert report.var_bpd is not None
    assert report.var_bpd_stderr is not None
    assert abs(report.var_bpd - (within + np.var(by_image))) < 4.0 * report.var_bpd_stderr
    assert report.var_bpd_stderr < 0.05 * report.var_bpd
    assert np.mean(report.var_bpd_by_time) == pytest.approx(report.var_bpd)
    scale = 2.0 * np.log(2.0) * 6.0
    rest, factor = make_bound(MODEL, known.runner(), 0, *PLAIN).exact - report.bpd, slope / scale
    first = np.stack([truths.squared_error(KNOWN, each) for each in gamma], axis=1)
    expected = factor**2 * truths.squared_error_moment(KNOWN, gamma) + 2.0 * factor * first * rest[:, None]
    expected = (expected.mean(axis=0) + np.square(rest).mean()).reshape(20, -1).mean(axis=1)
    assert np.corrcoef(expected, report.var_bpd_by_time)[0, 1] > 0.98


def test_learning_brings_the_variance_down_to_what_no_schedule_can_beat():
    start = with_interior({name: jnp.zeros(32) for name in INTERIOR})
    trained, x = replace(MODEL, interior_by_variance=True), encode(jnp.asarray(KNOWN.images), KNOWN.num_levels)
    optimizer = optax.adam(5e-3, b2=0.99)

    def update(state, step):
        interior, moments = state
        noise = MODEL.draw_noise(jax.random.fold_in(jax.random.key(0), step), len(x))

        def loss(interior):
            params = with_interior(interior).params
            nats = trained.diffusion_loss(params, x, jnp.zeros(len(x), jnp.int32), noise.t, noise.eps)
            return jnp.mean(nats_to_bpd(nats, MODEL.data.num_dims))

        updates, moments = optimizer.update(jax.grad(loss)(interior), moments)
        return (optax.apply_updates(interior, updates), moments), None

    interior = {name: start.params["gamma"][name] for name in INTERIOR}
    steps = jnp.arange(1500)
    (interior, _), _ = jax.jit(lambda state: jax.lax.scan(update, state, steps))((interior, optimizer.init(interior)))
    before, after, least = variance_by_hand(start), variance_by_hand(with_interior(interior)), smallest_variance()
    assert least < after < 1.1 * least
    assert after < 0.7 * before
