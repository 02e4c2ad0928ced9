import numpy as np
import pytest

from vdm_lib.evaluation.monte_carlo import between_passes_stderr, spread
from vdm_lib.evaluation.time_density import even_positions, positions


@pytest.mark.parametrize("passes", [2, 4, 16])
def test_the_errors_of_a_known_answer(passes):
    # A steep trend over time and large differences between images, neither of which is an error of the mean.
    num_images, repeats = 300, 400
    rng = np.random.default_rng(0)
    images = rng.normal(0.0, 3.0, num_images)
    means, variances, of_images = [], [], []
    for seed in range(repeats):
        places = np.stack([positions(seed, k, num_images) for k in range(passes)])
        total = 20.0 * places**2 + images + rng.normal(0.0, 0.5, places.shape)
        errors = spread(total, places)
        means.append(total.mean())
        variances.append(errors.monte_carlo_stderr**2)
        of_images.append(errors.image_variance)
    expected = (0.25 / num_images + (20.0 / num_images) ** 2 / 12.0) / passes
    # A variance from 400 draws has a relative deviation of 7 %: four of them. The groups' width adds a few per cent.
    assert np.var(means) == pytest.approx(expected, rel=0.28)
    assert np.mean(variances) == pytest.approx(expected, rel=0.1)
    assert np.mean(of_images) == pytest.approx(images.var(ddof=1), rel=0.02)


@pytest.mark.parametrize("passes", [3, 4, 16])
@pytest.mark.parametrize("own_trend", [lambda p: p, lambda p: np.exp(-3.0 * p), lambda p: np.cos(3.0 * p)])
def test_even_positions_take_the_images_own_trends_out_of_the_error(passes, own_trend):
    num_images, repeats = 300, 300
    rng = np.random.default_rng(0)
    images, rises = rng.normal(0.0, 3.0, num_images), rng.normal(0.0, 2.0, num_images)
    means, plain_means, variances, of_images = [], [], [], []
    for seed in range(repeats):
        for draw in (even_positions, positions):
            places = np.stack([draw(seed, k, num_images) for k in range(passes)])
            total = 20.0 * places**2 + images + rises * own_trend(places) + rng.normal(0.0, 0.5, places.shape)
            if draw is positions:
                plain_means.append(total.mean())
                continue
            errors = spread(total, places, even_by_image=True)
            means.append(total.mean())
            variances.append(errors.monte_carlo_stderr**2)
            of_images.append(errors.image_variance)
    # The deviation of a variance of 300 draws is 8 %.
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.35)
    assert np.var(means) < np.var(plain_means)
    mean_of_trend = own_trend((np.arange(1000) + 0.5) / 1000).mean()
    assert np.mean(of_images) == pytest.approx((images + rises * mean_of_trend).var(ddof=1), rel=0.03)


def test_two_passes_state_an_error_that_is_not_too_small():
    # One difference an image cannot tell its own trend from the rest.
    rng = np.random.default_rng(0)
    rises, means, variances = rng.normal(0.0, 2.0, 300), [], []
    for seed in range(300):
        places = np.stack([even_positions(seed, k, 300) for k in range(2)])
        total = rises * places + rng.normal(0.0, 0.5, places.shape)
        means.append(total.mean())
        variances.append(spread(total, places, even_by_image=True).monte_carlo_stderr ** 2)
    assert np.mean(variances) > np.var(means)


def test_the_test_set_error_holds_no_monte_carlo_error():
    rng = np.random.default_rng(0)
    images = rng.normal(0.0, 0.1, 500)
    found = [spread(images + rng.normal(0.0, 1.0, (2, 500))).image_variance for _ in range(200)]
    # The rest is fifty times the effects: what is left is right on average. Cut at 0, it is a little too large.
    deviation = np.std(found) / np.sqrt(200)
    assert images.var() - 4 * deviation < np.mean(found) < images.var() + 0.06


def test_independent_passes_without_trend():
    rng = np.random.default_rng(0)
    total = rng.normal(0.0, 1.0, (8, 1000))
    # The relative deviation of a variance with 7,000 degrees of freedom is 1.7 %.
    assert spread(total).monte_carlo_stderr == pytest.approx(1.0 / np.sqrt(8000), rel=0.05)
    assert between_passes_stderr(total) == pytest.approx(total.mean(axis=1).std(ddof=1) / np.sqrt(8))


def test_one_image_has_no_error_of_the_test_set():
    assert spread(np.array([[1.0], [2.0]])).test_set_stderr == 0.0
