import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm_lib.evaluation.time_density import TimeDensity, even_positions, fit, mixture, pilot_size, positions

KNOTS = st.lists(st.floats(0.1, 10.0), min_size=2, max_size=33)


def normalised(knots: list[float]) -> TimeDensity:
    values = np.asarray(knots)
    return TimeDensity(tuple((values / np.mean((values[1:] + values[:-1]) / 2.0)).tolist()))


@pytest.mark.parametrize("draw", [positions, even_positions])
@pytest.mark.parametrize("num_images", [1, 2, 49, 359, 10_000])
def test_the_positions_of_a_pass_hit_each_stratum_once(draw, num_images):
    found = draw(0, 3, num_images)
    assert found.min() >= 0.0
    assert found.max() < 1.0
    np.testing.assert_allclose(np.diff(np.sort(found)), 1.0 / num_images, atol=1e-12)


@pytest.mark.parametrize("draw", [positions, even_positions])
def test_positions_differ_between_passes_and_seeds_and_repeat_with_the_seed(draw):
    assert not np.array_equal(draw(0, 0, 50), draw(0, 1, 50))
    assert not np.array_equal(draw(0, 0, 50), draw(1, 0, 50))
    np.testing.assert_array_equal(draw(5, 1, 50), draw(5, 1, 50))


@pytest.mark.parametrize("passes", [2, 4, 16])
def test_even_positions_of_an_image_hit_each_stratum_of_the_passes_once(passes):
    num_images = 300
    found = np.sort(np.stack([even_positions(7, k, num_images) for k in range(passes)]), axis=0)
    np.testing.assert_allclose(np.diff(found, axis=0), 1.0 / passes, atol=1.0 / num_images)


def test_an_image_stands_anywhere_in_a_pass_of_even_positions():
    # The position of one image over seeds is uniform: its mean and variance, each at four errors.
    found = np.array([even_positions(seed, 1, 7)[3] for seed in range(2000)])
    assert abs(found.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 2000)
    assert abs(found.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / 2000)


@given(knots=KNOTS)
@settings(max_examples=60, deadline=None)
def test_times_follow_the_density(knots):
    density = normalised(knots)
    places = (np.arange(4000) + 0.5) / 4000
    times = density.times(places)
    assert times.dtype == np.float32
    assert np.all(np.diff(times) >= 0.0)
    assert times[0] >= 0.0
    assert times[-1] < 1.0
    # The mass below the time of position p is p: the integral of the density, by its own trapezoids on a fine grid.
    grid = np.linspace(0.0, 1.0, 20_001)
    values = density.at(grid)
    mass = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2.0)]) / 20_000
    np.testing.assert_allclose(np.interp(times, grid, mass), places, atol=2e-4)


@given(knots=KNOTS, power=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_weights_make_every_density_unbiased(knots, power):
    density = normalised(knots)
    # Positions close enough for the midpoint rule where the density rises a hundredfold between two knots.
    times = density.times((np.arange(40_000) + 0.5) / 40_000).astype(np.float64)
    assert np.mean(times**power / density.at(times)) == pytest.approx(1.0 / (power + 1), rel=1e-3)


def test_without_knots_times_are_uniform():
    places = np.array([0.0, 0.25, np.nextafter(1.0, 0.0)])
    times = TimeDensity().times(places)
    np.testing.assert_array_equal(times[:2], [0.0, 0.25])
    assert times[2] < 1.0
    np.testing.assert_array_equal(TimeDensity().at(times), 1.0)


def test_the_fitted_density_follows_the_standard_deviation():
    rng = np.random.default_rng(0)
    times = (np.arange(1024) + 0.5) / 1024
    deviation = np.exp(-6.0 * times)
    # A trend of the mean must not count.
    density = fit(times, 50.0 * times + deviation * rng.normal(size=1024))
    expected = 0.9 * np.exp(-6.0 * 0.3) / deviation.mean() + 0.1
    assert density.at(np.array([0.3]))[0] == pytest.approx(expected, rel=0.3)
    # Never more than ten times the uniform weight.
    assert density.at(np.linspace(0.0, 1.0, 1000)).min() >= 0.0999
    # The variance of the weighted loss is nearly the least there can be, the square of the mean deviation.
    grid = (np.arange(5000) + 0.5) / 5000
    spread = np.exp(-6.0 * grid)
    assert np.mean(spread**2 / density.at(grid)) < 1.15 * np.mean(spread) ** 2


@pytest.mark.parametrize("draws", [10, 100, 256, 1024])
def test_nothing_to_gain_leaves_times_uniform_or_nearly(draws):
    times = (np.arange(draws) + 0.5) / draws
    grid = np.linspace(0.0, 1.0, 1001)
    for seed in range(20):
        density = fit(times, np.random.default_rng(seed).normal(size=draws))
        # With equal deviations everywhere the cost of a density is the mean of its inverse: at most 10 % more.
        assert np.mean(1.0 / density.at(grid)) < 1.1


def test_losses_without_spread_leave_times_uniform():
    assert fit(np.linspace(0.0, 1.0, 256), np.zeros(256)) == TimeDensity()


def test_a_mixture_is_the_mean():
    a, b = TimeDensity((0.5, 1.0, 1.5)), TimeDensity()
    assert mixture([a, b]).knots == pytest.approx((0.75, 1.0, 1.25))
    assert mixture([b, b]) == TimeDensity()


@pytest.mark.parametrize(("images", "size"), [(10, 10), (359, 256), (4000, 500), (10_000, 1024), (50_000, 1024)])
def test_the_pilot_is_small(images, size):
    assert pilot_size(images) == size
