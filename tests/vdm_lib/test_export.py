import ast
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vdm_lib import bundle_check, export
from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.export import flatten_params, run_check, unflatten_params, write_bundle
from vdm_lib.model import VDM

MODEL = VDM(DataConfig(name="toy", image_shape=(8, 8, 1), num_levels=17), ModelConfig(n_embd=64, n_layer=1))
REPORT = {"bpd": 2.5, "bpd_stderr": 0.0125, "num_images": 10, "passes": 4, "split": "test"}
STEPS = 5


@pytest.fixture(scope="module")
def params():
    # A fresh network's last layers are zero: it would return z_t whatever the rest of it does.
    leaves, tree = jax.tree.flatten(MODEL.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.03 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def write(out, params, report=None):
    return write_bundle(
        out,
        config_json='{"name": "toy"}',
        model=MODEL,
        params=params,
        eval_report=report,
        provenance={"step": 3},
        sample_steps=STEPS,
    )


@pytest.fixture(scope="module")
def bundle(params, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "bundle"
    differences = write(out, params, REPORT)
    assert set(differences) == set(bundle_check.TOLERANCES)
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    return out


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def load(bundle, name):
    return jax.export.deserialize(bytearray((bundle / name).read_bytes())).call


def test_a_bundle_is_verified_in_a_fresh_process(bundle):
    script = bundle_check.__file__
    done = subprocess.run([sys.executable, "-I", script, bundle], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["verified"]
    assert result["error"] is None
    assert result["files"] == len(bundle_check.REQUIRED) == len(list(bundle.iterdir())) - 1
    assert set(result["max_difference"]) == set(bundle_check.TOLERANCES)


def test_the_checker_imports_nothing_of_the_project():
    tree = ast.parse(Path(bundle_check.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    third_party = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert third_party == {"jax", "numpy", "safetensors.numpy"}


def test_params_are_stored_exactly(bundle, params):
    flat = load_file(bundle / "params.safetensors")
    assert "score_model/conv_in/kernel" in flat
    jax.tree.map(np.testing.assert_array_equal, unflatten_params(flat), params)
    assert flatten_params(unflatten_params(flat)).keys() == flat.keys()


@pytest.mark.parametrize("batch", [1, 3])
def test_eps_is_that_of_the_model_for_any_batch(bundle, params, batch):
    z = jax.random.normal(jax.random.key(batch), (batch, 8, 8, 1))
    gamma, conditioning = jnp.linspace(-5.0, 2.0, batch), jnp.ones(batch)
    got = load(bundle, "eps.jaxexport")(load_file(bundle / "params.safetensors"), z, gamma, conditioning)
    expected = MODEL.eps_hat(params, z, gamma, conditioning)
    assert np.max(np.abs(expected - z)) > 0.1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.max(np.abs(expected)))


def test_bpd_estimates_the_bound_of_the_model(bundle, params):
    images = np.random.default_rng(0).integers(0, 17, (64, 8, 8, 1), dtype=np.uint8)
    flat = load_file(bundle / "params.safetensors")
    nats = load(bundle, "bpd.jaxexport")
    got = np.stack([nats(flat, images, np.uint32(seed)) for seed in range(8)])

    @jax.jit
    def direct(key):
        return MODEL.losses(params, jnp.asarray(images), jnp.zeros(64), MODEL.draw_noise(key, 64)).total

    expected = np.stack([direct(jax.random.key(seed)) for seed in range(8)])
    assert got.shape == expected.shape
    assert len(np.unique(got)) == got.size
    # Two independent estimates by 8 seeds: their means differ by a few of their own standard errors.
    means = got.mean(axis=1), expected.mean(axis=1)
    error = np.sqrt(sum(mean.var(ddof=1) / mean.size for mean in means))
    assert abs(means[0].mean() - means[1].mean()) < 5 * error


def test_the_sampler_draws_levels_by_its_seed(bundle):
    z_1 = np.random.default_rng(0).standard_normal((3, 8, 8, 1), dtype=np.float32)
    sampler, flat = load(bundle, "sampler.jaxexport"), load_file(bundle / "params.safetensors")
    first, again, other = (np.asarray(sampler(flat, z_1, np.array([0, i], np.uint32))) for i in (1, 1, 2))
    assert (first.dtype, first.shape) == (np.uint8, (3, 8, 8, 1))
    assert first.max() < 17
    assert len(np.unique(first)) > 2
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_the_code_on_the_card_runs_as_it_stands(bundle, monkeypatch):
    card = (bundle / "README.md").read_text()
    monkeypatch.chdir(bundle)
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    code += "\nassert images.shape == (4, 8, 8, 1) and bpd.shape == (4,) and eps_hat.shape == z_1.shape"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, env={"JAX_PLATFORMS": "cpu"})


def test_the_card_says_what_was_measured(bundle):
    card = (bundle / "README.md").read_text()
    assert "2.5000 ± 0.0125" in card
    assert "10 test images x 4 passes" in card
    assert all(f"`{name}`" in card for name in bundle_check.TOLERANCES)
    assert card.startswith("---\nlicense: ")


@pytest.mark.parametrize("name", [*bundle_check.REQUIRED, bundle_check.SUMS])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_byte_is_caught_and_its_file_named(copy, name, place):
    data = bytearray((copy / name).read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(bundle_check.BundleError, match=re.escape(name)):
        bundle_check.check_sums(copy)


@pytest.mark.parametrize("name", [*bundle_check.REQUIRED, bundle_check.SUMS])
def test_a_missing_file_is_caught_and_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(bundle_check.BundleError, match=re.escape(name)):
        bundle_check.check_sums(copy)


def test_an_extra_file_is_caught_and_named(copy):
    (copy / "more.txt").write_text("more")
    with pytest.raises(bundle_check.BundleError, match=r"more\.txt is not listed"):
        bundle_check.check_sums(copy)


def test_damage_is_one_line_from_a_fresh_process(copy):
    (copy / "eps.jaxexport").unlink()
    with pytest.raises(VdmError, match=r"not verified: eps\.jaxexport is missing") as caught:
        run_check(copy)
    assert "\n" not in str(caught.value)


def test_another_result_is_caught_though_the_checksums_fit(copy):
    with np.load(copy / "check.npz") as file:
        check = dict(file)
    check["nats"] *= np.float32(1.001)
    np.savez(copy / "check.npz", **check)
    with pytest.raises(bundle_check.BundleError, match=r"bpd\.jaxexport differs from the model by [0-9.]+e-0[34]"):
        bundle_check.check_functions(copy)


def test_differences_are_relative_to_the_largest_value():
    values = np.array([1.0, -4.0], np.float32)
    assert bundle_check._compare("eps.jaxexport", values + np.float32(0.5), values) == 0.125
    assert bundle_check._compare("eps.jaxexport", values * np.float32("nan"), values) == np.inf
    levels = np.array([1, 2, 3, 4], np.uint8)
    assert bundle_check._compare("sampler.jaxexport", levels + np.array([0, 0, 0, 1], np.uint8), levels) == 0.25
    with pytest.raises(bundle_check.BundleError, match=r"eps\.jaxexport returns"):
        bundle_check._compare("eps.jaxexport", values[:1], values)


def test_an_unreadable_function_is_named(copy):
    (copy / "bpd.jaxexport").write_bytes(b"nonsense")
    with pytest.raises(VdmError, match=r"bpd\.jaxexport cannot be used"):
        run_check(copy, "--only", "functions")


def test_a_directory_that_is_there_is_refused(bundle, params, tmp_path):
    before = bundle_check.sha256(bundle / bundle_check.SUMS)
    with pytest.raises(ConfigError, match="there already"):
        write(bundle, params)
    assert bundle_check.sha256(bundle / bundle_check.SUMS) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="there already"):
        write(tmp_path / "file", params)
    with pytest.raises(ConfigError, match="local"):
        write("gs://bucket/bundle", params)


@pytest.mark.parametrize("full_at", ["config.json", "params.safetensors"])
def test_a_full_disk_leaves_nothing_behind(params, tmp_path, monkeypatch, full_at):
    def full(path, data):
        if path.name == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(export, "_write", full)
    with pytest.raises(VdmError, match="No space left"):
        write(tmp_path / "bundle", params)
    assert not list(tmp_path.iterdir())


def test_what_is_not_verified_is_not_published(params, tmp_path, monkeypatch):
    def poor(function, params, inputs):
        return b"nonsense"

    monkeypatch.setattr(export, "_export", poor)
    with pytest.raises(VdmError, match=r"eps\.jaxexport cannot be used"):
        write(tmp_path / "bundle", params)
    assert not list(tmp_path.iterdir())


def test_no_measurement_is_said_so(params, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "run_check", lambda *_: {"max_difference": {}})
    monkeypatch.setattr(export, "_write_functions", lambda *_: None)
    write(tmp_path / "bundle", params)
    assert json.loads((tmp_path / "bundle" / "metrics.json").read_text()) == export.NOT_MEASURED
    assert "not measured" in (tmp_path / "bundle" / "README.md").read_text()
