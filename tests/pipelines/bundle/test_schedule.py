"""A model with the schedule `learnable_monotone` goes the way of all models: exported, verified and loaded."""

import jax
import numpy as np
import pytest

import configs
import pipelines.export
import pipelines.verify
from tests.pipelines.bundle.conftest import make_run
from vdm_lib.loading import load


@pytest.mark.slow  # makes a bundle of its own
@pytest.mark.timeout(600)
def test_a_learned_schedule_is_exported(digits_dir, tmp_path):
    workdir, bundle = tmp_path / "run", tmp_path / "bundle"
    workdir.mkdir()
    make_run(workdir, digits_dir, configs.load("debug", {"model.gamma_type": "learnable_monotone"}))
    made = pipelines.export.run(str(workdir), str(bundle), data=digits_dir, num_samples=2, sample_steps=3)
    # Formats whose package is not installed are named; none is left out for the schedule.
    assert max(made.max_difference.values()) < 1e-3
    assert pipelines.verify.run(str(bundle)).num_files > 5
    from_bundle, from_run = load(str(bundle)), load(str(workdir))
    ends = [from_run.params[f"gamma/{name}"] for name in ("gamma_0", "gamma_1")]
    np.testing.assert_array_equal(from_bundle.gamma(np.asarray([0.0, 1.0])), jax.numpy.stack(ends))
    times = np.linspace(0.0, 1.0, 50)
    np.testing.assert_array_equal(from_bundle.gamma(times), from_run.gamma(times))
    assert np.all(np.diff(from_bundle.gamma(times)) > 0.0)
