import dataclasses
import math

import jax
import numpy as np
import pytest

import configs
from vdm_lib.config import EvalConfig
from vdm_lib.data import Split
from vdm_lib.errors import DataError, DivergedError
from vdm_lib.evaluate import monte_carlo_variance, pass_times, per_image_bpd, summarise
from vdm_lib.model import VDM
from vdm_lib.sharding import make_mesh

CONFIG = configs.load("debug")


def random_split(num_images: int, shape: tuple[int, int, int] = (8, 8, 1), num_levels: int = 17) -> Split:
    rng = np.random.default_rng(0)
    return Split(
        name="test",
        images=rng.integers(0, num_levels, (num_images, *shape), np.uint8),
        labels=np.zeros(num_images, np.int64),
        num_levels=num_levels,
        fingerprint="0" * 64,
    )


@pytest.fixture(scope="module")
def params():
    return VDM.from_config(CONFIG).init(jax.random.key(0))


@pytest.mark.parametrize("num_images", [1, 2, 49, 359, 10_000])
def test_the_times_of_a_pass_hit_each_stratum_once(num_images):
    times = pass_times(0, 3, num_images)
    assert times.min() >= 0.0
    assert times.max() < 1.0
    # Sorted times are 1/n apart, whatever the offset.
    gaps = np.diff(np.sort(times.astype(np.float64)))
    np.testing.assert_allclose(gaps, 1.0 / num_images, atol=1e-6)


def test_times_differ_between_passes_and_repeat_with_the_seed():
    assert not np.array_equal(pass_times(0, 0, 50), pass_times(0, 1, 50))
    np.testing.assert_array_equal(pass_times(5, 1, 50), pass_times(5, 1, 50))


def test_the_result_does_not_depend_on_the_batch_size(params):
    split = random_split(23)
    results = [
        per_image_bpd(CONFIG, EvalConfig(passes=2, batch_size=size), params, split, make_mesh()) for size in (23, 5)
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=2e-5)


def test_the_stated_error_is_the_spread_over_seeds(params):
    split = random_split(40)
    reports = []
    for seed in range(12):
        evaluation = EvalConfig(passes=4, batch_size=40, seed=seed)
        terms = per_image_bpd(CONFIG, evaluation, params, split, make_mesh())
        reports.append(summarise(terms, CONFIG, evaluation, split, 0))
    spread = np.std([report.bpd for report in reports], ddof=1)
    stated = np.mean([report.bpd_stderr for report in reports])
    # The spread of 12 draws leaves 0.41 to 1.69 times its true value with probability 0.001 (chi-square with 11
    # degrees); the stated error has 120 degrees and a trend that 10 groups follow roughly.
    assert 0.5 * stated < spread < 1.8 * stated


@pytest.mark.parametrize("passes", [2, 4, 16])
def test_the_monte_carlo_error_of_a_known_answer(passes):
    # A steep trend over time and large differences between images, neither of which is an error of the mean.
    num_images, repeats = 300, 400
    rng = np.random.default_rng(0)
    images = rng.normal(0.0, 3.0, num_images)
    means, variances = [], []
    for seed in range(repeats):
        times = np.stack([pass_times(seed, k, num_images) for k in range(passes)])
        total = 20.0 * times**2 + images + rng.normal(0.0, 0.5, times.shape)
        means.append(total.mean())
        variances.append(monte_carlo_variance(total, times))
    expected = (0.25 / num_images + (20.0 / num_images) ** 2 / 12.0) / passes
    # A variance from 400 draws has a relative deviation of 7 %: four of them. The groups' width adds a few per cent.
    assert np.var(means) == pytest.approx(expected, rel=0.28)
    assert np.mean(variances) == pytest.approx(expected, rel=0.1)


def test_the_summary_of_known_terms():
    split = random_split(2)
    evaluation = EvalConfig(passes=2)
    terms = np.zeros((2, 2, 3))
    terms[..., 2] = [[1.0, 3.0], [2.0, 4.0]]
    report = summarise(terms, CONFIG, evaluation, split, 7)
    assert report.bpd == report.bpd_diff == 2.5
    assert report.bpd_stderr == pytest.approx(math.sqrt(0.5 / 4))
    assert report.bpd_between_passes_stderr == pytest.approx(0.5)
    assert report.bpd_test_set_stderr == pytest.approx(1.0)
    assert (report.num_images, report.passes, report.step) == (2, 2, 7)
    assert str(report).startswith("2.50 ± 0.35 bits/dim")


def test_other_data_is_refused(params):
    with pytest.raises(DataError, match="17 levels"):
        per_image_bpd(CONFIG, CONFIG.eval, params, random_split(4, num_levels=256), make_mesh())
    with pytest.raises(DataError, match="shape"):
        per_image_bpd(CONFIG, CONFIG.eval, params, random_split(4, (8, 8, 3)), make_mesh())


def test_a_loss_that_is_not_finite_names_the_image():
    terms = np.zeros((2, 5, 3))
    terms[1, 3, 0] = np.nan
    with pytest.raises(DivergedError, match="1 of 5 test images have no finite bpd: 3"):
        summarise(terms, CONFIG, CONFIG.eval, random_split(5), 9)


def test_more_steps_of_discrete_time_approach_continuous_time_from_above(params):
    split = random_split(64)
    evaluation = EvalConfig(passes=8, batch_size=64)
    bpd = []
    for timesteps in (4, 64, 0):
        model = dataclasses.replace(CONFIG.model, timesteps=timesteps)
        config = dataclasses.replace(CONFIG, model=model)
        terms = per_image_bpd(config, evaluation, params, split, make_mesh())
        bpd.append(summarise(terms, config, evaluation, split, 0).bpd)
    assert bpd[0] > bpd[1] > bpd[2] - 0.1
