import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import configs
import pipelines.train
from pipelines import command
from tests.pipelines.rows import without_speed
from vdm_lib import reference
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.loading import load
from vdm_lib.metrics import read_metrics
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

DEBUG = configs.load("debug")


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("import") / "run"
    pipelines.train.run(DEBUG, digits_dir, str(workdir))
    return workdir


@pytest.fixture(scope="module")
def published(run) -> Path:
    """The newest checkpoint of the run in the original's form."""
    directory = run.parent / "checkpoints-0"
    assert command.main(["import", "--reverse", str(run), str(directory)]) == 0
    return directory


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_there_and_back_is_bit_exact(published, tmp_path, capsys):
    assert command.main(["import", str(published), str(tmp_path / "run"), "debug", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6
    assert command.main(["import", "--reverse", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    assert files_of(tmp_path / "back") == files_of(published)


def test_the_config_is_recognised_by_its_parameters(published, tmp_path, capsys):
    assert command.main(["import", str(published), str(tmp_path / "run"), "--json"]) == 0
    # digits and debug have the same network; digits is the first.
    assert json.loads(capsys.readouterr().out)["config"] == "digits"


@pytest.mark.slow
def test_training_goes_on_from_an_imported_checkpoint(run, published, digits_dir, tmp_path):
    longer = dataclasses.replace(DEBUG, train=dataclasses.replace(DEBUG.train, steps=8))
    assert command.main(["import", str(published), str(tmp_path / "run"), "debug"]) == 0
    # Other tests compare with the run as it was published.
    shutil.copytree(run, tmp_path / "whole")
    for workdir in (tmp_path / "run", tmp_path / "whole"):
        pipelines.train.run(longer, digits_dir, str(workdir))
    imported, whole = (read_metrics(tmp_path / name / "metrics.jsonl")[-1] for name in ("run", "whole"))
    assert without_speed(imported) == without_speed(whole)


def test_a_checkpoint_of_the_original_is_evaluated_as_it_lies(run, published, digits_dir, tmp_path, capsys):
    words = ["--data", digits_dir, "--json"]
    assert command.main(["eval", "debug", "--checkpoint", str(published), "--workdir", str(tmp_path), *words]) == 0
    theirs = json.loads(capsys.readouterr().out)["reports"][0]
    assert command.main(["eval", "--workdir", str(run), "--step", "6", *words]) == 0
    ours = json.loads(capsys.readouterr().out)["reports"][0]
    assert json.loads((tmp_path / "eval" / "6.json").read_text()) == theirs
    speed = {"seconds": 0, "images_per_s": 0}
    assert theirs | speed == ours | speed


@pytest.mark.slow  # compiles an evaluation of its own
def test_a_checkpoint_of_the_original_is_read_from_a_bucket(gcs, run, published, digits_dir, tmp_path):
    for path in published.iterdir():
        gcs.store.put("bucket", f"vdm/checkpoints-0/{path.name}", path.read_bytes())
    words = ["eval", "debug", "--checkpoint", "gs://bucket/vdm/checkpoints-0"]
    words += ["--workdir", str(tmp_path), "--data", digits_dir]
    # gcsfs keeps its connections and settings for the life of a process.
    command_line = [sys.executable, "-m", "pipelines.command", *words]
    done = subprocess.run(command_line, env=os.environ | gcs.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "eval" / "6.json").read_text())
    assert command.main(["eval", "--workdir", str(run), "--data", digits_dir, "--step", "6"]) == 0
    assert report["bpd"] == json.loads((run / "eval" / "6.json").read_text())["bpd"]


def test_an_import_that_is_interrupted_leaves_nothing_and_can_be_run_again(published, tmp_path, monkeypatch, capsys):
    words = ["import", str(published), str(tmp_path / "run"), "debug"]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        assert command.main(words) == 1
    assert capsys.readouterr().err == "vdm import: interrupted\n"
    assert list(tmp_path.iterdir()) == []
    assert command.main(words) == 0


@pytest.mark.slow  # compiles the step for a schedule of its own
def test_a_line_of_the_original_becomes_a_schedule_between_its_end_points(run, published, digits_dir, tmp_path, capsys):
    words = ["debug", "model.gamma_type=learnable_monotone"]
    assert command.main(["import", str(published), str(tmp_path / "run"), *words]) == 0
    theirs, ours = load(str(run)), load(str(tmp_path / "run"))
    ends = np.asarray([0.0, 1.0])
    np.testing.assert_allclose(ours.gamma(ends), theirs.gamma(ends), rtol=1e-6)
    images = np.zeros((2, 8, 8, 1), np.uint8)
    eps = [model.eps(images.astype(np.float32), -1.0) for model in (theirs, ours)]
    np.testing.assert_array_equal(*eps)
    longer = configs.load("debug", {"model.gamma_type": "learnable_monotone", "train.steps": 8})
    assert pipelines.train.run(longer, digits_dir, str(tmp_path / "run")).step == 8
    assert command.main(["import", "--reverse", str(tmp_path / "run"), str(tmp_path / "back")]) == 2
    assert "google-research/vdm has no schedule model.gamma_type=learnable_monotone" in capsys.readouterr().err


@pytest.mark.slow  # traces every named config
def test_the_sizes_of_an_unknown_network_are_named(published, tmp_path, capsys):
    values = ["model.n_embd=96", "model.n_layer=2", "model.with_attention=true"]
    other = configs.load("debug", configs.parse_overrides(values))
    shapes = jax.eval_shape(lambda: init_state(other, make_mesh()))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    reference.write_state(str(tmp_path / "other"), state)
    assert command.main(["import", str(tmp_path / "other"), str(tmp_path / "out")]) == 2
    assert " ".join(values) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_evaluated_in_other_ways(run, digits_dir, capsys):
    words = ["eval", "eval.protocol=reference", "eval.batch_size=32", "model.timesteps=5", "--workdir", str(run)]
    assert command.main([*words, "--step", "6", "--data", digits_dir, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["reports"][0]
    assert (report["protocol"], report["num_images"], report["timesteps"]) == ("reference", 3200, 5)
    assert np.isfinite(report["bpd"])
    assert (run / "eval" / "6-timesteps=5-protocol=reference-batch_size=32.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["import", "{published}", "{out}", "digits", "model.n_layer=2"], 1, "block_1/GroupNorm_0/bias is absent"),
        (["import", "{published}", "{out}", "cifar10"], 1, "score_model/GroupNorm_0/bias is float32[64]"),
        (["import", "{published}", "{out}", "digits", "model.gamma_type=learnable_nnet"], 1,
         "model.gamma_type=learnable_scalar, that of the config is model.gamma_type=learnable_nnet"),
        (["import", "{published}/ckpt-7", "{out}"], 1, "holds: ckpt-1"),
        (["import", "nowhere", "{out}", "digits"], 1, "no checkpoint nowhere; give checkpoints-0 or a .flax file"),
        (["import", "{published}", "{out}", "digits", "optim.gradient_clip_norm=1"], 2, "gradient_clip_norm"),
        (["import", "{published}", "{run}"], 2, "is there already"),
        (["import", "{published}", "{out}", "model.n_layer=2"], 2, "need the config"),
        (["import", "--reverse", "{run}", "{out}", "--step", "5"], 1, "no checkpoint of step 5"),
        (["import", "--reverse", "{run}", "{published}"], 2, "is there already"),
        (["import", "{run}", "{out}"], 1, "no file `checkpoint`"),
        (["eval", "--checkpoint", "{published}", "--workdir", "{out}", "--data", "{data}"], 2, "needs the config"),
        (["eval", "debug", "--workdir", "{run}", "--data", "{data}"], 2, "has its own config"),
        (["eval", "model.n_layer=3", "--workdir", "{run}", "--data", "{data}"], 2, "cannot change model.n_layer"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_writes_nothing(words, code, message, run, published, digits_dir, tmp_path, capsys):
    names = {"published": published, "run": run, "data": digits_dir, "out": tmp_path / "out"}
    assert command.main([word.format(**names) for word in words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()
