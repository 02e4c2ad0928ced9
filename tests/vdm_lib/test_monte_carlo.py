import numpy as np
import pytest

from vdm_lib.monte_carlo import between_passes_stderr, spread
from vdm_lib.time_density import positions


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
