"""One run and one bundle of it for all tests: making them takes most of the time."""

import shutil
from pathlib import Path

import jax
import pytest

import configs
import pipelines.evaluate
import pipelines.export
from pipelines import run_dir
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.records import read_manifest
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

CONFIG = configs.load("debug")
STEP = 3


@pytest.fixture(scope="session")
def run(digits_dir, tmp_path_factory):
    """A run of `debug` with one checkpoint and its evaluation; nothing was trained."""
    workdir = tmp_path_factory.mktemp("export") / "run"
    run_dir.open_run(str(workdir), CONFIG)
    state = init_state(CONFIG, make_mesh())
    # A fresh network's last layers are zero: it would return z_t whatever the rest of it does.
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = jax.tree.unflatten(
        tree, [x + 0.03 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    )
    fingerprints = {name: split.fingerprint for name, split in read_manifest(digits_dir).splits.items()}
    (workdir / "checkpoints").mkdir()
    with Checkpoints(str(workdir)) as checkpoints:
        checkpoints.save(
            state.replace(ema_params=noisy, step=jax.numpy.asarray(STEP, state.step.dtype)),
            {"config": configs.to_json(CONFIG), "data_fingerprints": fingerprints},
        )
    pipelines.evaluate.run(str(workdir), digits_dir)
    rows = '{"step": 2, "bpd": 6.0, "steps_per_s": 2.0}\n{"step": 3, "bpd": 5.0, "steps_per_s": 0.5}\n'
    (workdir / "metrics.jsonl").write_text(rows)
    return workdir


@pytest.fixture(scope="session")
def exported(run, digits_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    return pipelines.export.run(str(run), str(out), data=digits_dir, num_samples=2, sample_steps=3)


@pytest.fixture(scope="session")
def bundle(exported):
    return Path(exported.bundle)


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copy"))
