import math

import jax
import numpy as np
import pytest

import configs
from tests.vdm_lib.test_evaluate import SUBJECT, random_split
from vdm_lib.config import EvalConfig
from vdm_lib.evaluate import measure, summarise
from vdm_lib.evaluation.bound import make_bound
from vdm_lib.evaluation.passes import Runner
from vdm_lib.evaluation.reference_protocol import draw_indices, per_batch_bpd, summarise_batches
from vdm_lib.model import VDM
from vdm_lib.sharding import make_mesh

CONFIG = configs.load("debug")


@pytest.mark.parametrize("num_images", [37, 1000])
def test_the_draws_are_whole_shuffled_passes_without_the_first_batch(num_images):
    drawn = draw_indices(0, num_images, 128).reshape(-1)
    assert drawn.shape == (12_800,)
    # The first batch is thrown away, so the first whole pass begins where the pass under way ends.
    start = -128 % num_images
    num_whole = (len(drawn) - start) // num_images
    passes = drawn[start : start + num_whole * num_images].reshape(num_whole, num_images)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(num_images), (num_whole, 1)))
    assert not np.array_equal(passes[0], passes[1])


def test_the_draws_of_the_released_cifar10_evaluation():
    # Counted by running the original: 9,915 of the 10,000 test images, 7,030 once and 2,885 twice. The shuffle is
    # another, so the counts hold up to chance: 85 is 128 x (1 - 2,928 / 10,000) on average, with deviation 5.
    counts = np.bincount(draw_indices(0, 10_000, 128).reshape(-1), minlength=10_000)
    assert counts.sum() == 12_800
    assert counts.max() == 2
    assert abs((counts == 0).sum() - 90.5) < 5 * 8


@pytest.mark.parametrize(
    ("gamma_type", "timesteps"),
    [
        pytest.param("learnable_nnet", 0, marks=pytest.mark.slow),
        ("fixed", 7),
        pytest.param("fixed", 0, marks=pytest.mark.slow),
        pytest.param("learnable_scalar", 7, marks=pytest.mark.slow),
        pytest.param("learnable_nnet", 7, marks=pytest.mark.slow),
    ],
)
def test_both_protocols_measure_the_same_bound(gamma_type, timesteps):
    config = configs.load("debug", {"model.gamma_type": gamma_type, "model.timesteps": timesteps, "model.n_embd": 32})
    params = VDM.from_config(config).init(jax.random.key(0))
    split = random_split(50)
    evaluation = EvalConfig(passes=4, batch_size=10)
    terms = per_batch_bpd(config, evaluation, params, split, make_mesh())
    report = summarise_batches(terms, config, evaluation, SUBJECT, 1.0)
    bound = make_bound(VDM.from_config(config), Runner(params, split, make_mesh(), 10), 0, "uniform")
    every = summarise(bound, measure(bound, evaluation, "test"), evaluation, SUBJECT)
    assert abs(report.bpd - every.bpd) < 5 * math.hypot(report.bpd_stderr, every.bpd_stderr)
    assert report.num_images == 1000
    assert report.timesteps == timesteps
    assert "1000 draws of test images by the reference protocol" in str(report)
