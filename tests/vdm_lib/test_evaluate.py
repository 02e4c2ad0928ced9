from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from tests.known_answers.models import gaussian
from vdm_lib.config import EvalConfig
from vdm_lib.data import Split
from vdm_lib.errors import DataError, DivergedError
from vdm_lib.evaluate import Measurement, Subject, check_data, measure, summarise
from vdm_lib.evaluation.bound import DiffusionLoss, make_bound
from vdm_lib.evaluation.passes import OnePass, check_finite

CONFIG = configs.load("debug")
SUBJECT = Subject(step=7, split="test", fingerprint="0" * 64, params="ema", digest="1" * 64, code_version="0")


def random_split(num_images: int, shape: tuple[int, int, int] = (8, 8, 1), num_levels: int = 17) -> Split:
    rng = np.random.default_rng(0)
    return Split(
        name="test",
        images=rng.integers(0, num_levels, (num_images, *shape), np.uint8),
        labels=np.zeros(num_images, np.int64),
        num_levels=num_levels,
        fingerprint="0" * 64,
    )


class Known:
    """An estimator whose estimates are given."""

    even_by_image = False

    def __init__(self, estimates):
        self.estimates = np.asarray(estimates, np.float64)
        self.exact = np.zeros(self.estimates.shape[1])
        self.num_images = self.estimates.shape[1]
        self.made = []

    def positions(self, pass_index):
        return None

    def one_pass(self, pass_index):
        self.made.append(pass_index)
        return OnePass(self.estimates[pass_index])


class Memory:
    """A store in memory."""

    def __init__(self):
        self.arrays = {}

    def read(self, name):
        return self.arrays.get(name)

    def write(self, name, arrays):
        self.arrays[name] = arrays


def bound_of(num_images: int, *, seed: int = 0, batch_size: int = 64):
    known = gaussian(num_images)
    return make_bound(known.model, known.runner(batch_size), seed, "uniform")


@pytest.mark.parametrize("at_once", [1, 4, 23, 100])
def test_the_result_does_not_depend_on_how_many_go_through_the_network_together(at_once):
    whole = bound_of(23)
    pieces = replace(whole, runner=replace(whole.runner, at_once=at_once))
    np.testing.assert_allclose(pieces.one_pass(1).estimates, whole.one_pass(1).estimates, rtol=1e-5)


def test_the_result_does_not_depend_on_the_batch_size():
    whole = bound_of(23).one_pass(1).estimates
    for size in (1, 5, 23, 1000):
        np.testing.assert_allclose(bound_of(23, batch_size=size).one_pass(1).estimates, whole, rtol=1e-5)


def test_the_noise_of_an_image_depends_on_seed_image_and_pass_only():
    bound = bound_of(23)
    times = bound.times(0)
    key = jax.random.fold_in(jax.random.key(0), 0)
    alone = bound.runner(DiffusionLoss(bound.model), times[[4, 19]], key, np.array([4, 19]))
    np.testing.assert_allclose(alone / np.log(2) / 6, bound.one_pass(0).estimates[[4, 19]], rtol=1e-5)
    other_seed = bound_of(23, seed=1)
    assert not np.allclose(other_seed.one_pass(0).estimates, bound.one_pass(0).estimates, rtol=1e-3)
    assert not np.allclose(bound.one_pass(1).estimates, bound.one_pass(0).estimates, rtol=1e-3)


def test_the_parts_without_the_network_are_the_means_of_the_drawn_ones():
    known = gaussian(6)
    bound = make_bound(known.model, known.runner(), 0, "uniform")
    images = jnp.asarray(np.repeat(known.images, 4000, axis=0))
    noise = known.model.draw_noise(jax.random.key(3), len(images))
    losses = known.model.losses(known.params, images, jnp.zeros(len(images)), noise)
    recon, latent = (np.asarray(each, np.float64).reshape(6, 4000) / np.log(2) / 6 for each in losses[:2])
    np.testing.assert_allclose(bound.latent, latent[:, 0], rtol=1e-3)
    error = recon.std(axis=1) / np.sqrt(4000)
    # Six images, five errors: one in 300,000.
    assert np.all(np.abs(bound.recon - recon.mean(axis=1)) < 5 * error)


def test_a_target_runs_passes_until_the_error_is_reached_or_the_budget_ends():
    rng = np.random.default_rng(0)
    estimates = rng.normal(0.0, 0.3, (50, 100))
    evaluation = EvalConfig(passes=2, target_se=0.01, max_passes=50)
    measured = measure(Known(estimates), evaluation, "test")
    # 0.3 / sqrt(100 K) < 0.01 from K = 9 on.
    assert 7 <= len(measured.estimates) <= 12
    report = summarise(Known(estimates), measured, evaluation, SUBJECT)
    assert report.bpd_stderr <= 0.01
    assert "not reached" not in str(report)
    few = EvalConfig(passes=2, target_se=0.01, max_passes=4)
    measured = measure(Known(estimates), few, "test")
    assert len(measured.estimates) == 4
    assert "target ± 0.01 not reached" in str(summarise(Known(estimates), measured, few, SUBJECT))


def test_passes_that_were_made_are_not_made_again():
    store, estimates = Memory(), np.arange(12.0).reshape(4, 3)
    first, second = Known(estimates), Known(estimates)
    measure(first, EvalConfig(passes=2), "test", store=store)
    measured = measure(second, EvalConfig(passes=4), "test", store=store)
    assert (first.made, second.made) == ([0, 1], [2, 3])
    np.testing.assert_array_equal(measured.estimates, estimates)


def test_the_summary_of_known_terms():
    evaluation = EvalConfig(passes=2)
    report = summarise(Known([[1.0, 3.0], [2.0, 4.0]]), Measurement(np.array([[1.0, 3.0], [2.0, 4.0]]), 2.0),
                       evaluation, SUBJECT, calls_per_estimate=5)  # fmt: skip
    assert report.bpd == 2.5
    # The rest is +-1/2 about each image's mean: variance 1/2 from two degrees of freedom, divided by 4 estimates.
    assert report.bpd_stderr == pytest.approx(np.sqrt(0.5 / 4))
    assert report.bpd_between_passes_stderr == pytest.approx(0.5)
    # The images' means are 1.5 and 3.5: variance 2, of which 1/4 is of the rest.
    assert report.bpd_test_set_stderr == pytest.approx(np.sqrt((2.0 - 0.25) / 2))
    assert (report.num_images, report.passes, report.step, report.network_calls) == (2, 2, 7, 20)
    assert report.images_per_s == 2.0
    assert str(report).startswith("2.50 ± 0.35 bits/dim")


def test_other_data_is_refused():
    with pytest.raises(DataError, match="17 levels"):
        check_data(CONFIG, random_split(4, num_levels=256))
    told = r'images of shape \(8, 8, 1\), the data has \(8, 8, 3\): .* set "data.image_shape=\[8, 8, 3\]"'
    with pytest.raises(DataError, match=told):
        check_data(CONFIG, random_split(4, (8, 8, 3)))


def test_losses_that_are_not_finite_are_counted_and_named():
    store, estimates = Memory(), np.zeros((2, 5))
    estimates[1, 3] = np.nan
    with pytest.raises(DivergedError, match="1 of 5 test images have no finite bpd: 3"):
        measure(Known(estimates), EvalConfig(passes=2), "test", store=store)
    assert list(store.arrays) == ["pass-000000"]
    with pytest.raises(DivergedError, match=r"7 of 9 images have no finite bpd: 0, 1, 2, 3, 4$"):
        check_finite(np.array([np.inf] * 7 + [0.0] * 2), "images")
