"""Runs that were killed, damaged or misused: what was finished is kept, and what is wrong is said in one line."""

import json
import os
import random
import re
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
import pipelines.train
from pipelines import command, run_dir
from pipelines.lock import lock
from tests.pipelines.rows import without_speed
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.errors import CheckpointError
from vdm_lib.files.checksums import leaf_checksums
from vdm_lib.metrics import read_metrics
from vdm_lib.sharding import make_mesh, replicated
from vdm_lib.train import abstract_state, init_state

# Orbax leaves coroutines behind that nobody awaits when a restore fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DEBUG = configs.load("debug")


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("damage") / "run"
    pipelines.train.run(DEBUG, digits_dir, str(workdir))
    pipelines.evaluate.run(str(workdir), digits_dir)
    return workdir


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def largest_file(directory: Path) -> Path:
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def fails_with(words: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The command exits with a code and one line after those of its progress; libraries print nothing beside it."""
    capfd.readouterr()
    assert command.main(words) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    *progress, error = captured.err.splitlines()
    assert all(re.match(r"vdm \w+: +\d+\.\d s: ", line) for line in progress)
    assert message in error


def test_a_single_flipped_bit_changes_the_checksum_of_its_leaf_only():
    tree = {"a": jax.numpy.arange(7.0), "b": jax.numpy.zeros((2, 3))}
    before = np.asarray(leaf_checksums(tree))
    for word in range(6):
        for bit in (0, 13, 31):
            words = np.zeros(6, np.uint32)
            words[word] = np.uint32(1) << np.uint32(bit)
            changed = np.asarray(leaf_checksums(tree | {"b": words.view(np.float32).reshape(2, 3)}))
            assert changed[0] == before[0]
            assert changed[1] != before[1]


def test_a_flipped_bit_in_a_checkpoint_is_seen(run, tmp_path, capfd):
    flip_a_bit(largest_file(run / "checkpoints" / "6" / "state"))
    words = ["sample", "--workdir", str(run), "--out", str(tmp_path / "s.png"), "--num", "1", "--steps", "1"]
    fails_with(words, 1, "checkpoint 6 of", capfd)
    assert not (tmp_path / "s.png").exists()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "metadata"])
def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(run, finished, digits_dir, damage, capfd):
    file = largest_file(run / "checkpoints" / "6" / "state")
    if damage == "flipped":
        flip_a_bit(file)
    elif damage == "truncated":
        os.truncate(file, 1000)
    elif damage == "metadata":
        (run / "checkpoints" / "6" / "metadata" / "metadata").write_text("{")
    else:
        shutil.rmtree(run / "checkpoints" / "6" / "state")
    assert pipelines.train.run(DEBUG, digits_dir, str(run)).step == 6
    assert f"moved to {run / 'checkpoints-damaged' / '6'}" in capfd.readouterr().err
    rows, whole = (read_metrics(each / "metrics.jsonl") for each in (run, finished))
    assert [without_speed(row) for row in rows] == [without_speed(row) for row in whole]


def test_if_no_checkpoint_can_be_read_nothing_is_moved(run, digits_dir):
    for step in (3, 6):
        flip_a_bit(largest_file(run / "checkpoints" / str(step) / "state"))
    with pytest.raises(CheckpointError, match="checkpoint 3 of"):
        pipelines.train.run(DEBUG, digits_dir, str(run))
    assert (run / "checkpoints" / "3").exists()


@pytest.mark.parametrize(
    ("name", "content", "words", "message"),
    [
        ("config.json", b"{garb", "train debug --data {data} --workdir {run}", "config.json is not"),
        ("config.json", b"[]", "train debug --data {data} --workdir {run}", "config.json is not the config of a run"),
        ("config.json", b"\xff", "eval --data {data} --workdir {run}", "config.json is not the config of a run"),
        ("eval/6.json", b"{garb", "eval --data {data} --workdir {run}", "6.json is no report"),
        ("eval/6.json", b"{}", "export --workdir {run} --out {run}/bundle", "6.json is no report"),
        ("eval/6.json", b"[" * 100_000, "eval --data {data} --workdir {run}", "6.json is no report"),
        ("metrics.jsonl", b'{"step": 2}\n{torn\n{}\n', "train debug train.steps=7 --data {data} --workdir {run}",
         "metrics.jsonl, line 2,"),
        *(
            ("checkpoints/6/metadata/metadata", content,
             "sample --workdir {run} --out {run}/s.png --num 1 --steps 1", "metadata of checkpoint 6")
            for content in (
                b"{}", b'{"data_fingerprints": {}, "form": "x"}', b'{"data_fingerprints": {}, "checksums": [1]}',
                b'{"data_fingerprints": {"test": 5}}',
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(run, digits_dir, name, content, words, message, capfd):
    (run / name).write_bytes(content)
    fails_with(words.format(data=digits_dir, run=run).split(), 1, message, capfd)


@pytest.mark.parametrize("words", ["eval --data {data} --workdir {run}", "export --workdir {run} --out {run}/bundle"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_digest": "0" * 64}, "6.json is a report of another checkpoint"),
        ({"step": 3}, "6.json is a report of another measurement (step 3, test images)"),
        ({"split": "train"}, "6.json is a report of another measurement (step 6, train images)"),
    ],
)
def test_a_report_of_something_else_is_not_taken_for_that_of_the_checkpoint(
    run, digits_dir, change, message, words, capfd
):
    path = run / "eval" / "6.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    fails_with(words.format(data=digits_dir, run=run).split(), 1, message, capfd)


def test_a_report_outlives_its_checkpoint(run, digits_dir):
    shutil.rmtree(run / "checkpoints" / "6")
    (report,) = pipelines.evaluate.run(str(run), digits_dir, step="6").reports
    assert report.step == 6


@pytest.mark.parametrize("content", ["[" * 100_000, "{", '{"bpd": NaN}', '{"bpd": 1%s}' % ("0" * 400)])
def test_the_best_step_passes_over_a_damaged_report(run, content):
    (run / "eval" / "3.json").write_text(content)
    assert run_dir.best_step(str(run)) == 6


def test_a_run_cannot_be_shortened(run, digits_dir, capfd):
    before = (run / "config.json").read_bytes()
    words = ["train", "debug", "train.steps=4", "--data", digits_dir, "--workdir", str(run)]
    fails_with(words, 2, "is at step 6, beyond train.steps=4", capfd)
    assert (run / "config.json").read_bytes() == before


def test_a_file_is_no_run_directory(digits_dir, tmp_path, capfd):
    file = tmp_path / "notes"
    file.write_text("mine")
    fails_with(["train", "debug", "--data", digits_dir, "--workdir", str(file)], 2, "is a file: choose another", capfd)
    assert file.read_text() == "mine"


def test_a_run_directory_is_trained_in_by_one_process(run, digits_dir, capfd):
    words = ["train", "debug", "train.steps=7", "--data", digits_dir, "--workdir", str(run)]
    with lock(str(run)):
        fails_with(words, 1, "another process trains in", capfd)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": Infinity}', '{"step": 1e400}', '{"step": -5}', '{"step": 2.7}', '{"step": true}', "[1, 2]",
        '{"step": 5, "skipped_steps": "x"}', '{"step": 7, "bpd": [1, 2]}', '{"step": 7, "loss_level_0": {"a": 1}}',
        '{"step": 7, "bpd": 1%s}' % ("0" * 400), "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_row_of_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "bpd": 2.5, "skipped_steps": 0, "loss_level_0": null, "loss_level_1": NaN}\n')
    assert len(read_metrics(path)) == 1
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 2, is no row"):
        read_metrics(path)


def final_state(workdir: Path, config) -> list[np.ndarray]:
    mesh = make_mesh()
    with Checkpoints(str(workdir)) as checkpoints:
        abstract = abstract_state(config, mesh)
        state = checkpoints.restore(config.train.steps, abstract, replicated(mesh))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.slow  # starts training three times
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(digits_dir, tmp_path):
    # A checkpoint after every step: most of the time one is being written.
    overrides = {"train.steps": 24, "train.checkpoint_every": 1, "train.log_every": 1}
    config = configs.load("debug", overrides)
    words = [f"{key}={value}" for key, value in overrides.items()]
    pipelines.train.run(config, digits_dir, str(tmp_path / "whole"))
    command_line = [sys.executable, "-m", "pipelines.command", "train", "debug", *words, "--data", digits_dir]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    killed = tmp_path / "killed"
    rng = random.Random(0)
    for number_of_rows in (2, 12):
        process = subprocess.Popen(
            [*command_line, "--workdir", str(killed)], env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while len(read_metrics(killed / "metrics.jsonl")) < number_of_rows:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
            # Somewhere in the step, the logging or the write that follows.
            time.sleep(rng.uniform(0.0, 0.2))
        finally:
            process.kill()
            process.communicate()
    assert pipelines.train.run(config, digits_dir, str(killed)).step == 24
    rows, whole = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("killed", "whole"))
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert [without_speed(row) for row in rows] == [without_speed(row) for row in whole]
    for resumed, expected in zip(final_state(killed, config), final_state(tmp_path / "whole", config), strict=True):
        np.testing.assert_array_equal(resumed, expected)
    assert json.loads((killed / "config.json").read_text())["train"]["steps"] == 24


def edit_gamma_type(run: Path) -> None:
    path = run / "config.json"
    values = json.loads(path.read_text())
    values["model"]["gamma_type"] = "learnable_monotone"
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "words",
    [
        "eval --workdir {run} --data {data} --force",
        # They all restore in the same way.
        *(pytest.param(words, marks=pytest.mark.slow)
          for words in ("eval --compare {run}@3 {run} --data {data}", "sample --workdir {run} --out {out}.png",
                        "export --workdir {run} --out {out}",
                        "compress --model {run} --steps 10 --out {out}.vdmz {data}")),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_schedule_is_named(run, digits_dir, tmp_path, words, capsys):
    edit_gamma_type(run)
    words = words.format(run=run, data=digits_dir, out=tmp_path / "out")
    assert command.main(words.split()) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "its schedule is model.gamma_type=learnable_scalar" in error
    assert "that of the config is model.gamma_type=learnable_monotone" in error
    assert not list(tmp_path.glob("out*"))


def test_nor_is_it_trained_on_or_set_aside(run, digits_dir, capsys):
    monotone = "debug model.gamma_type=learnable_monotone train.steps=8"
    words = f"train {monotone} --workdir {run} --data {digits_dir}".split()
    assert command.main(words) == 2
    assert "holds a run with model.gamma_type='learnable_scalar', asked for is 'learnable_monotone'" in (
        capsys.readouterr().err
    )
    edit_gamma_type(run)
    assert command.main(words) == 1
    error = capsys.readouterr().err
    assert "was trained with model.gamma_type='learnable_scalar', config.json has 'learnable_monotone'" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["3", "6"]


def test_end_points_that_have_crossed_are_refused(finished, digits_dir, tmp_path, capsys):
    config = configs.load("debug", {"model.gamma_type": "learnable_monotone"})
    workdir = tmp_path / "crossed"
    run_dir.open_run(str(workdir), config)
    state = init_state(config, make_mesh())
    state.ema_params["gamma"]["gamma_1"] = state.ema_params["gamma"]["gamma_0"]
    (workdir / "checkpoints").mkdir()
    with Checkpoints(str(workdir)) as checkpoints:
        checkpoints.save(state, {"config": configs.to_json(config), "data_fingerprints": {}})
    assert command.main(["eval", "--workdir", str(workdir), "--data", digits_dir]) == 1
    error = capsys.readouterr().err
    assert "the end points of gamma have crossed, gamma_0=-6, gamma_1=-6" in error
    assert error.count("\n") == 1
