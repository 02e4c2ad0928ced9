"""Films, interpolations, filled images and progressive decoding, on models whose answers are known."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.known_answers.models import gaussian, mixture
from vdm_lib import sampling
from vdm_lib.errors import ConfigError
from vdm_lib.likelihood import encode
from vdm_lib.samplers.film import film, moments
from vdm_lib.samplers.inpainting import inpaint
from vdm_lib.samplers.interpolation import interpolate, noise_of, slerp
from vdm_lib.samplers.progressive import progressive
from vdm_lib.samplers.sampler import Sampler

KNOWN = gaussian(64)
MODEL, PARAMS = KNOWN.model, KNOWN.params
# Of right code one of the statistical tests here fails by chance once in 10,000 runs.
LEVEL = 1e-4 / 4


def step_by_step(body, params, state, num_steps):
    step = jax.jit(body)
    for i in range(num_steps):
        state = step(params, state, np.int32(i))
    assert step._cache_size() == 1
    return state


@pytest.mark.parametrize(("num_steps", "num_frames"), [(250, 10), (5, 50), (7, 1), (1, 1), (9, 2)])
def test_a_film_shows_its_first_and_its_last_step(num_steps, num_frames):
    shown = moments(num_steps, num_frames)
    assert len(shown) == min(num_steps, num_frames)
    assert shown[-1] == num_steps - 1
    assert shown[0] == (0 if len(shown) > 1 else num_steps - 1)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm"])
def test_a_film_ends_where_sampling_ends_and_shows_what_the_network_sees(solver):
    sampler = Sampler(solver)
    z_1, key_steps = sampling.start(MODEL, jax.random.key(0), 3)
    made = jax.jit(lambda z_1: film(MODEL, PARAMS, sampler, z_1, key_steps, 12, 4))(z_1)
    z_0 = sampling.denoise(MODEL, PARAMS, sampler, z_1, key_steps, 12)
    np.testing.assert_allclose(made.z_0, z_0, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(made.z[0], z_1)
    for z, x_hat, i in zip(made.z, made.x_hat, moments(12, 4), strict=True):
        gamma = float(sampling.gammas(MODEL, PARAMS, "time", int(i), 12).t)
        alpha, variance = np.sqrt(1 / (1 + np.exp(gamma))), 1 / (1 + np.exp(-gamma))
        # The best estimate of a normal image from its noisy form.
        weight = alpha * PARAMS["variance"] / (alpha**2 * PARAMS["variance"] + variance)
        expected = PARAMS["mean"] + weight * (z - alpha * PARAMS["mean"])
        np.testing.assert_allclose(x_hat, expected, atol=1e-4)


def test_one_program_serves_all_steps_and_gives_what_the_device_loop_gives():
    z_1, key_steps = sampling.start(MODEL, jax.random.key(0), 3)
    draw = partial(film, MODEL, PARAMS, Sampler("dpm"), z_1, key_steps, 9, 4)
    for one, other in zip(draw(), draw(step_by_step), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_arc_between_unit_vectors_has_unit_length_and_even_angles():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(5, 2, 3, 1)) for _ in range(2))
    a, b = (jnp.asarray(x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True)), jnp.float32) for x in (a, b))
    arc = np.asarray(slerp(a, b, jnp.linspace(0.0, 1.0, 5)))
    np.testing.assert_allclose(arc[:, 0], a, atol=1e-6)
    np.testing.assert_allclose(arc[:, -1], b, atol=1e-6)
    np.testing.assert_allclose((arc**2).sum((2, 3, 4)), 1.0, atol=1e-5)
    steps = (arc[:, 1:] * arc[:, :-1]).sum((2, 3, 4))
    np.testing.assert_allclose(steps, steps[:, :1].repeat(4, axis=1), atol=1e-5)


def test_the_arc_between_equal_points_stays_there():
    a = jnp.ones((1, 2, 3, 1))
    np.testing.assert_allclose(slerp(a, a, jnp.linspace(0.0, 1.0, 3))[0], np.ones((3, 2, 3, 1)), atol=1e-6)


@pytest.mark.parametrize(("solver", "num_steps"), [("ddim", 200), ("dpm", 40)])
def test_the_ends_of_an_interpolation_are_the_two_images(solver, num_steps):
    sampler, images = Sampler(solver), jnp.asarray(KNOWN.images[:6])
    z_1 = noise_of(MODEL, PARAMS, sampler, images, num_steps)
    weights = jnp.linspace(0.0, 1.0, 3)
    made = interpolate(MODEL, PARAMS, sampler, z_1[::2], z_1[1::2], weights, jax.random.key(0), num_steps)
    np.testing.assert_array_equal(made[:, 0], images[::2])
    np.testing.assert_array_equal(made[:, -1], images[1::2])


def test_the_noise_of_an_image_is_where_the_flow_of_normals_comes_from():
    mean, variance = (np.asarray(PARAMS[name], np.float64) for name in ("mean", "variance"))
    alpha, var = {}, {}
    for end, gamma in ((0, MODEL.model.gamma_min), (1, MODEL.model.gamma_max)):
        alpha[end] = np.sqrt(1 / (1 + np.exp(gamma)))
        var[end] = alpha[end] ** 2 * variance + 1 / (1 + np.exp(-gamma))
    images = jnp.asarray(KNOWN.images)
    z_0 = alpha[0] * np.asarray(encode(images, KNOWN.num_levels), np.float64)
    expected = alpha[1] * mean + (z_0 - alpha[0] * mean) * np.sqrt(var[1] / var[0])
    np.testing.assert_allclose(noise_of(MODEL, PARAMS, Sampler("dpm"), images, 400), expected, atol=2e-3)


def test_no_flow_leads_back_from_ancestral_samples():
    with pytest.raises(ConfigError, match="only ddim and dpm"):
        noise_of(MODEL, PARAMS, Sampler("ancestral"), jnp.asarray(KNOWN.images[:1]), 5)


def test_known_pixels_are_kept_and_unknown_ones_do_not_count():
    unknown = jnp.asarray([[True, False, False], [False, True, False]])
    images = KNOWN.images[:9]
    others = np.where(unknown[..., None], 3, images).astype(np.uint8)
    fill = jax.jit(lambda images: inpaint(MODEL, PARAMS, images, unknown, jax.random.key(1), 20))
    made = np.asarray(fill(jnp.asarray(images)))
    np.testing.assert_array_equal(made[:, ~np.asarray(unknown)], images[:, ~np.asarray(unknown)])
    np.testing.assert_array_equal(made, fill(jnp.asarray(others)))
    assert (made != images).any()


def _filled(known_level: int, times_each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return drawn second dimensions given the first, and the levels' exact probabilities."""
    known = mixture(2, gamma_1=6.0)
    images = np.zeros((2000, 1, 2, 1), np.uint8)
    images[:, 0, 0] = known_level
    unknown = jnp.asarray([[False, True]])
    draw = jax.jit(
        lambda images: inpaint(known.model, known.params, images, unknown, jax.random.key(2), 100, times_each)
    )
    made = np.asarray(draw(jnp.asarray(images)))[:, 0, 1, 0]
    first = 2 * (known_level + 0.5) / known.num_levels - 1
    edges = np.linspace(-1, 1, known.num_levels + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    exact = np.zeros(known.num_levels)
    means = np.asarray(known.params["means"])[:, 0, :, 0]
    deviations = np.sqrt(np.asarray(known.params["variances"])[:, 0, :, 0])
    # A level is the bin that z_0 / alpha_0 lies in, which has its noise.
    drawn = np.hypot(deviations[:, 1], np.exp(0.5 * known.model.model.gamma_min))
    share = np.exp(np.asarray(known.params["log_weights"])) * stats.norm.pdf(first, means[:, 0], deviations[:, 0])
    for weight, mean, deviation in zip(share / share.sum(), means[:, 1], drawn, strict=True):
        exact += weight * np.diff(stats.norm.cdf(edges, mean, deviation))
    return np.bincount(made, minlength=known.num_levels) / len(made), exact


@pytest.mark.slow  # draws many
def test_repeated_steps_lead_to_the_conditional_distribution_of_a_mixture():
    """Total variation to p(second | first), where the first could be of two of the three normals."""
    distances = []
    for times_each in (1, 20):
        found, exact = _filled(20, times_each)
        distances.append(0.5 * np.abs(found - exact).sum())
    assert distances[1] < 0.22
    assert distances[1] < 0.6 * distances[0]


@pytest.mark.parametrize("spacing", ["time", "log_snr"])
def test_the_bits_of_a_progressive_decoding_sum_to_the_bound(spacing):
    """The mean over images and draws, against the T-step bound in closed form."""
    num_steps, images = 10, KNOWN.images
    decode = jax.jit(lambda key: progressive(MODEL, PARAMS, jnp.asarray(images), key, num_steps, 4, spacing))
    made = [decode(jax.random.key(seed)) for seed in range(60)]
    spent = np.array([each.total_nats - each.recon_nats for each in made], np.float64)
    x = np.asarray(encode(jnp.asarray(images), KNOWN.num_levels), np.float64)
    mean, variance = (np.asarray(PARAMS[name], np.float64) for name in ("mean", "variance"))
    gammas = np.linspace(MODEL.model.gamma_min, MODEL.model.gamma_max, num_steps + 1)
    v = 1 / (1 + np.exp(-gammas[-1]))
    expected = 0.5 * ((1 - v) * x**2 + v - np.log(v) - 1)
    for gamma_s, gamma_t in itertools.pairwise(gammas):
        u = np.exp(gamma_t)
        # eps - eps_hat = a eps - b y for normals, as in linear_control.
        a2, b2 = (variance / (variance + u)) ** 2, u / (variance + u) ** 2
        expected = expected + 0.5 * np.expm1(gamma_t - gamma_s) * (a2 + b2 * (x - mean) ** 2)
    expected = expected.sum((1, 2, 3))
    rest = (spent - expected).mean(axis=1)
    assert stats.ttest_1samp(rest, 0.0).pvalue > LEVEL
    assert rest.std(ddof=1) / len(rest) ** 0.5 < 0.01 * expected.mean()


@pytest.mark.slow  # compiles a chain of its own
def test_the_bits_of_a_progressive_decoding_only_grow():
    made = progressive(MODEL, PARAMS, jnp.asarray(KNOWN.images[:5]), jax.random.key(0), 30, 30)
    nats = np.asarray(made.nats)
    assert nats.shape == (30, 5)
    assert (np.diff(nats, axis=0) > 0).all()
    assert (made.total_nats > nats[-1]).all()
    error = np.abs(np.asarray(made.x_hat) - np.asarray(encode(jnp.asarray(KNOWN.images[:5]), KNOWN.num_levels)))
    assert error[-1].mean() < 0.5 * error[0].mean()
