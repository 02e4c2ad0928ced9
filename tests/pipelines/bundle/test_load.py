import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.bundle import check
from vdm_lib import load
from vdm_lib.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def model(bundle):
    return load(str(bundle))


def test_a_loaded_bundle_gives_what_its_files_give(model, bundle):
    with np.load(bundle / "check.npz") as file:
        given = dict(file)
    images = model.sample(2, steps=int(given["num_steps"]), seed=int(given["seed"]))
    assert check.compare("sample", "sample", images, given["samples"]) <= check.TOLERANCES["sample"]
    eps = model.eps(given["z_t"], given["gamma_t"], given["conditioning"])
    assert check.compare("eps", "eps", eps, given["eps_hat"]) <= check.TOLERANCES["eps"]
    assert repr(model) == "LoadedModel(debug, step 3, 643,779 parameters)"
    assert (model.step, model.config.data.image_shape) == (3, (8, 8, 1))
    assert np.all(np.diff(model.gamma(np.linspace(0.0, 1.0, 5))) > 0)


def test_bpd_averages_independent_passes(model):
    images = model.sample(2, steps=3)
    passes = [model.bpd(images, seed=seed) for seed in (0, 0, 1)]
    assert passes[0].shape == (2,)
    assert passes[0].dtype == np.float32
    np.testing.assert_array_equal(passes[0], passes[1])
    assert np.all(passes[0] != passes[2])
    # The mean of many varies less than one estimate does.
    single = [model.bpd(images, seed=seed) for seed in range(16)]
    means = [model.bpd(images, passes=16, seed=seed) for seed in range(16)]
    assert np.all(np.std(means, axis=0) < 0.6 * np.std(single, axis=0))


def test_a_number_for_all_images_is_that_number_for_each(model):
    z = np.random.default_rng(0).standard_normal((2, 8, 8, 1), dtype=np.float32)
    np.testing.assert_array_equal(
        model.eps(z, -1.5), model.eps(z, np.full(2, -1.5, np.float32), np.zeros(2, np.float32))
    )


def test_a_run_holds_the_same_parameters(model, run):
    of_run = load(str(run))
    assert (of_run.step, of_run.config, of_run.params.keys()) == (model.step, model.config, model.params.keys())
    np.testing.assert_array_equal(of_run.params["gamma/w"], model.params["gamma/w"])
    with pytest.raises(CheckpointError, match="no checkpoint of step 9"):
        load(str(run), step=9)


def test_a_pointer_of_a_registry_is_followed(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "00000003-ab")
    (tmp_path / "promoted").write_text("00000003-ab\n")
    assert load(str(tmp_path / "promoted")).step == 3


@pytest.mark.parametrize("name", ["params.safetensors", "config.json", "SHA256SUMS"])
def test_damage_is_named(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged|no config" if name != "SHA256SUMS" else "SHA"):
        load(str(copy))
        # One of the other files' lines was hit: what is loaded is whole.
        raise CheckpointError("SHA")
    (copy / name).unlink()
    with pytest.raises(CheckpointError):
        load(str(copy))


def test_bad_input(model, bundle, tmp_path):
    with pytest.raises(CheckpointError, match="is no bundle"):
        load(str(tmp_path))
    with pytest.raises(ConfigError, match="leave out step=3"):
        load(str(bundle), step=3)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    for bad in (images[0], images[:, :4], images.astype(np.float32), images + np.uint8(17)):
        with pytest.raises(ConfigError, match=r"images must be|levels must lie"):
            model.bpd(bad)
    for call in (
        lambda: model.sample(0),
        lambda: model.sample(1, steps=0),
        lambda: model.sample(1, seed=-1),
        lambda: model.bpd(images, passes=0),
        lambda: model.eps(np.zeros((1, 4, 4, 1), np.float32), 0.0),
    ):
        with pytest.raises(ConfigError, match="must"):
            call()


def test_the_package_loads_no_jax_before_it_is_asked_to():
    code = "import sys, vdm_lib; assert 'jax' not in sys.modules; vdm_lib.load; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
