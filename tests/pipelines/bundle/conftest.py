"""One run and one bundle of it for all tests of all processes: making them takes most of the time."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import jax
import pytest
from filelock import FileLock

import configs
import pipelines.evaluate
import pipelines.export
from pipelines import run_dir
from pipelines.results import ExportResult
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.files.records import read_manifest
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

CONFIG = configs.load("debug")
STEP = 3


def make_run(workdir, data, config=CONFIG):
    """Make a run of `debug` with one checkpoint and its evaluation; nothing was trained."""
    run_dir.open_run(str(workdir), config)
    state = init_state(config, make_mesh())
    # A fresh network's last layers are zero: it would return z_t whatever the rest of it does.
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.03 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    state = state.replace(ema_params=jax.tree.unflatten(tree, noisy), step=jax.numpy.asarray(STEP, state.step.dtype))
    fingerprints = {name: split.fingerprint for name, split in read_manifest(data).splits.items()}
    (workdir / "checkpoints").mkdir()
    with Checkpoints(str(workdir)) as checkpoints:
        checkpoints.save(state, {"config": configs.to_json(config), "data_fingerprints": fingerprints})
    pipelines.evaluate.run(str(workdir), data)
    rows = '{"step": 2, "bpd": 6.0, "steps_per_s": 2.0}\n{"step": 3, "bpd": 5.0, "steps_per_s": 0.5}\n'
    (workdir / "metrics.jsonl").write_text(rows)


@pytest.fixture(scope="session")
def run(digits_dir, shared_tmp):
    with FileLock(shared_tmp / "export.lock"):
        workdir = shared_tmp / "export" / "run"
        if not workdir.exists():
            make_run(workdir, digits_dir)
    return workdir


@pytest.fixture(scope="session")
def exported(run, digits_dir):
    """What the export said of the one bundle that all tests share."""
    said = run.parent / "exported.json"
    with FileLock(run.parent / "exported.lock"):
        if not said.exists():
            out = str(run.parent / "bundles" / "bundle")
            result = pipelines.export.run(str(run), out, data=digits_dir, num_samples=2, sample_steps=3)
            said.write_text(json.dumps(asdict(result)))
    return ExportResult(**json.loads(said.read_text()))


@pytest.fixture(scope="session")
def bundle(exported):
    return Path(exported.bundle)


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copy"))
