import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import configs
import pipelines.evaluate
import pipelines.prepare
import pipelines.sample
import pipelines.train
from pipelines import run_dir
from tests.pipelines.rows import without_speed
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.errors import CheckpointError, ConfigError, DataError, DivergedError
from vdm_lib.metrics import read_metrics
from vdm_lib.sharding import make_mesh, replicated
from vdm_lib.train import abstract_state

DEBUG = configs.load("debug")


def restored_leaves(workdir: Path, step: int) -> list[np.ndarray]:
    with Checkpoints(str(workdir)) as checkpoints:
        mesh = make_mesh()
        abstract = abstract_state(DEBUG, mesh)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoints.restore(step, abstract, replicated(mesh)))]


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory) -> Path:
    """A finished run of six steps."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    result = pipelines.train.run(DEBUG, digits_dir, str(workdir))
    assert result.step == 6
    return workdir


def test_the_record_of_a_run(run):
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    for row in rows:
        assert row["bpd"] == pytest.approx(row["bpd_recon"] + row["bpd_latent"] + row["bpd_diff"], rel=1e-5)
    # The learning rate of the first update is 0, of the second 1/100 of the full rate: the mean of the first row.
    assert rows[0]["learning_rate"] == pytest.approx(DEBUG.optim.learning_rate / 200)
    assert configs.from_json((run / "config.json").read_text(), "run") == DEBUG
    assert json.loads((run / "provenance.json").read_text())["packages"]["jax"] == jax.__version__
    assert list((run / "tensorboard").iterdir())


def test_resuming_is_bit_for_bit(run, digits_dir, tmp_path):
    half = dataclasses.replace(DEBUG, train=dataclasses.replace(DEBUG.train, steps=3))
    pipelines.train.run(half, digits_dir, str(tmp_path))
    pipelines.train.run(DEBUG, digits_dir, str(tmp_path))
    for resumed, whole in zip(restored_leaves(tmp_path, 6), restored_leaves(run, 6), strict=True):
        np.testing.assert_array_equal(resumed, whole)
    rows = [read_metrics(workdir / "metrics.jsonl") for workdir in (tmp_path, run)]
    for resumed, whole in zip(*rows, strict=True):
        assert without_speed(resumed) == without_speed(whole)


@pytest.mark.slow  # compiles a loop over layers and the same without
def test_a_run_goes_on_where_layers_are_not_looped_over(run, digits_dir, tmp_path):
    looped = configs.load("debug", {"model.scan_layers": "on", "train.steps": 3, "train.sample_images": 4})
    pipelines.train.run(looped, digits_dir, str(tmp_path))
    with Checkpoints(str(tmp_path)) as checkpoints, Checkpoints(str(run)) as of_run:
        stored = [each.metadata(3)["checksums"] for each in (checkpoints, of_run)]
    assert stored[0].keys() == stored[1].keys(), "what a checkpoint holds does not depend on the machine"
    pipelines.train.run(configs.load("debug"), digits_dir, str(tmp_path))
    for row, whole in zip(*(read_metrics(each / "metrics.jsonl") for each in (tmp_path, run)), strict=True):
        assert without_speed(row) == pytest.approx(without_speed(whole), rel=2e-5)


def test_a_finished_run_does_nothing(run, digits_dir):
    assert pipelines.train.run(DEBUG, digits_dir, str(run)).bpd is None


def test_evaluation_writes_one_report_and_does_not_repeat_it(run, digits_dir, capsys):
    (report,) = pipelines.evaluate.run(str(run), digits_dir).reports
    assert report.num_images == 359
    assert report.step == 6
    path = run / "eval" / "6.json"
    assert json.loads(path.read_text())["bpd"] == report.bpd
    written = path.stat().st_mtime_ns
    assert "nothing was measured" not in capsys.readouterr().err
    assert pipelines.evaluate.run(str(run), digits_dir).reports == (report,)
    assert "step 6 has this report: nothing was measured, --force measures again" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == written
    everything = pipelines.evaluate.run(str(run), digits_dir, step="all").reports
    assert [each.step for each in everything] == [6, 3]


@pytest.mark.slow  # trains
def test_samples_are_a_function_of_the_seed(run, tmp_path):
    pictures = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for picture, seed in zip(pictures, (0, 0, 1), strict=True):
        pipelines.sample.run(str(run), str(picture), num=4, steps=2, seed=seed)
    contents = [picture.read_bytes() for picture in pictures]
    assert contents[0] == contents[1] != contents[2]
    with pytest.raises(ConfigError, match=r"steps must lie in 1\.\.2\^31-1, got 0"):
        pipelines.sample.run(str(run), str(tmp_path / "d.png"), num=4, steps=0)


def test_a_run_directory_of_another_config_is_refused(run, digits_dir):
    other = dataclasses.replace(DEBUG, optim=dataclasses.replace(DEBUG.optim, learning_rate=1.0))
    with pytest.raises(ConfigError, match=r"optim\.learning_rate"):
        pipelines.train.run(other, digits_dir, str(run))


def test_other_data_than_the_run_began_with_is_refused(run, tmp_path):
    other = str(tmp_path / "other")
    pipelines.prepare.run("digits", other, limit=50)
    with pytest.raises(CheckpointError, match="other data"):
        pipelines.train.run(DEBUG, other, str(run))
    with pytest.raises(CheckpointError, match="other data"):
        pipelines.evaluate.run(str(run), other, force=True)


@pytest.mark.slow  # trains twice
def test_other_data_can_be_allowed_and_is_named(run, digits_dir, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    other = str(tmp_path / "other")
    splits = pipelines.prepare.run("digits", other, limit=50).fingerprints
    (own,) = pipelines.evaluate.run(str(workdir), digits_dir).reports
    for _ in range(2):
        (report,) = pipelines.evaluate.run(str(workdir), other, allow_other_data=True).reports
        assert report.data_fingerprint == splits["test"] != own.data_fingerprint
    assert (workdir / "eval" / f"6-data={splits['test'][:8]}.json").exists()
    assert pipelines.evaluate.run(str(workdir), digits_dir).reports == (own,)
    longer = dataclasses.replace(DEBUG, train=dataclasses.replace(DEBUG.train, steps=7))
    pipelines.train.run(longer, other, str(workdir), allow_other_data=True)
    with Checkpoints(str(workdir)) as checkpoints:
        before, after = checkpoints.metadata(6), checkpoints.metadata(7)
    assert before["data_fingerprints"]["test"] == own.data_fingerprint
    assert after["data_fingerprints"] == splits
    assert after["earlier_data_fingerprints"] == [before["data_fingerprints"]]
    with pytest.raises(CheckpointError, match="other data"):
        pipelines.train.run(longer, digits_dir, str(workdir))


def test_a_model_for_other_levels_is_refused_before_anything_is_written(digits_dir, tmp_path):
    config = configs.load("debug", {"data.num_levels": 256})
    with pytest.raises(DataError, match="256 levels"):
        pipelines.train.run(config, digits_dir, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_divergence_stops_with_the_step_and_keeps_the_last_checkpoint(digits_dir, tmp_path):
    overrides = {"optim.learning_rate": 1e30, "optim.warmup_steps": 1, "train.steps": 40, "train.checkpoint_every": 1}
    with pytest.raises(DivergedError, match=r"step \d+: .*lower|step \d+: \w+ is (nan|inf)"):
        pipelines.train.run(configs.load("debug", overrides), digits_dir, str(tmp_path))
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.steps()
    assert all(np.isfinite(row["bpd"]) for row in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_workdir_without_a_run_or_a_checkpoint(digits_dir, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        pipelines.evaluate.run(str(tmp_path), digits_dir)
    run_dir.open_run(str(tmp_path), DEBUG)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        pipelines.evaluate.run(str(tmp_path), digits_dir)
    assert pipelines.evaluate.run(str(tmp_path), digits_dir, step="all").reports == ()


def test_a_missing_step_names_those_that_are_there(run, digits_dir):
    with pytest.raises(CheckpointError, match="there are: 3, 6"):
        pipelines.evaluate.run(str(run), digits_dir, step="5")


def test_a_full_disk_keeps_the_checkpoint_before(digits_dir, tmp_path, monkeypatch):
    half = dataclasses.replace(DEBUG, train=dataclasses.replace(DEBUG.train, steps=3))
    pipelines.train.run(half, digits_dir, str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("vdm_lib.checkpoints.shutil.disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(CheckpointError, match=r"no space .* 1\.0 MB free"):
        pipelines.train.run(DEBUG, digits_dir, str(tmp_path))
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [3]


def test_a_signal_saves_and_exits_75(digits_dir, tmp_path):
    words = ["train", "debug", "train.steps=100000", "--data", digits_dir, "--workdir", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "pipelines.command", *words], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not read_metrics(tmp_path / "metrics.jsonl"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == 75
    finally:
        process.kill()
        process.wait()
    with Checkpoints(str(tmp_path)) as checkpoints:
        (*_, last) = checkpoints.steps()
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == last


@pytest.mark.slow  # trains
def test_the_clock_asks_for_checkpoints_too(digits_dir, tmp_path):
    changes = {"train.steps": 3, "train.checkpoint_every": 1000, "train.checkpoint_minutes": 1e-9}
    pipelines.train.run(configs.load("debug", changes), digits_dir, str(tmp_path))
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.slow  # trains and evaluates several times
def test_the_best_measured_checkpoint_outlives_newer_ones(run, digits_dir, tmp_path):
    changes = {"train.steps": 3, "train.checkpoint_every": 3, "train.keep_checkpoints": 1}
    pipelines.train.run(configs.load("debug", changes), digits_dir, str(tmp_path))
    pipelines.evaluate.run(str(tmp_path), digits_dir, step="3")
    pipelines.train.run(configs.load("debug", changes | {"train.steps": 9}), digits_dir, str(tmp_path))
    with Checkpoints(str(tmp_path)) as checkpoints:
        # Of 6 there is no report, and 9 is the newest.
        assert checkpoints.steps() == [3, 9]
