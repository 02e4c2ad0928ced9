"""The files of an evaluation: complete, continued after a kill, refused where they are of something else."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from pyarrow import parquet

import configs
import pipelines.evaluate
import pipelines.train
from pipelines import command
from pipelines.evaluation.files import PassFiles
from vdm_lib.errors import CheckpointError
from vdm_lib.evaluation.bound import Bound
from vdm_lib.report import FIELD_NAMES

DEBUG = configs.load("debug")


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    pipelines.train.run(DEBUG, digits_dir, str(workdir))
    return workdir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of a trained run without reports."""
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("eval")))


@pytest.fixture(scope="module")
def measured(trained, digits_dir) -> dict:
    """The report of an undisturbed evaluation, as it lies on disk."""
    pipelines.evaluate.run(str(trained), digits_dir)
    return json.loads((trained / "eval" / "6.json").read_text())


def without_times(report: dict) -> dict:
    return {key: value for key, value in report.items() if key not in ("seconds", "images_per_s")}


def test_the_report_is_complete(measured):
    assert tuple(measured) == FIELD_NAMES
    assert measured["bpd"] == pytest.approx(
        measured["bpd_recon"] + measured["bpd_latent"] + measured["bpd_diff"], rel=1e-12
    )
    assert (measured["num_images"], measured["passes"], measured["network_calls"]) == (359, 2, 2 * 359 + 256)
    assert measured["images_per_s"] == pytest.approx(measured["network_calls"] / measured["seconds"])
    assert len(measured["checkpoint_digest"]) == len(measured["data_fingerprint"]) == 64
    assert measured["code_version"].startswith("0.")
    assert (measured["dtype"], measured["matmul_precision"], measured["params"]) == ("float32", "float32", "ema")


def test_the_noise_levels_add_up(measured):
    levels = measured["noise_levels"]
    assert sum(level["bpd"] for level in levels) == pytest.approx(measured["bpd_diff"], rel=1e-9)
    # The whole rate is the bound without the reconstruction; it falls towards the noise.
    rates = [level["rate_bpd"] for level in levels]
    assert rates[0] == pytest.approx(measured["bpd"] - measured["bpd_recon"], rel=1e-9)
    assert rates == sorted(rates, reverse=True)
    assert levels[0]["distortion_rmse"] < levels[-1]["distortion_rmse"]


def test_the_terms_of_each_image_stand_beside_the_report(measured, trained):
    table = parquet.read_table(trained / "eval" / "6.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    assert table.num_rows == 2 * 359
    np.testing.assert_array_equal(np.bincount(columns["image"]), 2)
    assert columns["bpd"].mean() == pytest.approx(measured["bpd"], rel=1e-12)
    parts = columns["bpd_recon"] + columns["bpd_latent"] + columns["bpd_diff"]
    np.testing.assert_allclose(parts, columns["bpd"], rtol=1e-12)
    assert table.schema.metadata[b"checkpoint_digest"].decode() == measured["checkpoint_digest"]
    assert [path.name for path in sorted((trained / "eval").iterdir())] == ["6.json", "6.parquet"]


def test_a_killed_evaluation_continues_at_its_pass(run, measured, digits_dir, monkeypatch):
    one_pass, made = Bound.one_pass, []

    def dies_in_the_second(self, pass_index):
        made.append(pass_index)
        if len(made) == 2:
            raise KeyboardInterrupt
        return one_pass(self, pass_index)

    monkeypatch.setattr(Bound, "one_pass", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        pipelines.evaluate.run(str(run), digits_dir)
    assert not (run / "eval" / "6.json").exists()
    pipelines.evaluate.run(str(run), digits_dir)
    assert made == [0, 1, 1]
    assert without_times(json.loads((run / "eval" / "6.json").read_text())) == without_times(measured)
    assert not (run / "eval" / "6.passes").exists()


def test_a_request_to_stop_keeps_the_passes(run, measured, digits_dir, monkeypatch, capsys):
    one_pass, made = Bound.one_pass, []

    def asked_to_stop(self, pass_index):
        made.append(pass_index)
        if len(made) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_pass(self, pass_index)

    monkeypatch.setattr(Bound, "one_pass", asked_to_stop)
    words = ["eval", "--workdir", str(run), "--data", digits_dir]
    assert command.main(words) == 75
    assert "the same command goes on" in capsys.readouterr().out
    assert command.main(words) == 0
    assert made == [0, 1]
    assert without_times(json.loads((run / "eval" / "6.json").read_text())) == without_times(measured)


def test_pass_files_of_something_else_count_as_absent(tmp_path):
    directory = epath.Path(tmp_path / "a")
    files = PassFiles(directory, "this")
    files.write("pass-000000", {"estimates": np.arange(3.0), "seconds": np.asarray(1.0)})
    np.testing.assert_array_equal(files.read("pass-000000")["estimates"], [0.0, 1.0, 2.0])
    assert PassFiles(directory, "other").read("pass-000000") is None
    assert files.read("pass-000001") is None
    path = tmp_path / "a" / "pass-000000.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"\0" * len(whole)):
        path.write_bytes(damaged)
        assert files.read("pass-000000") is None


def test_a_report_of_another_schema_is_refused_in_one_line(run, digits_dir, capsys):
    old = {"step": 6, "split": "test", "bpd": 5.0, "bpd_stderr": 0.1}
    (run / "eval").mkdir()
    (run / "eval" / "6.json").write_text(json.dumps(old))
    words = ["eval", "--workdir", str(run), "--data", digits_dir]
    assert command.main(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "schema version 1, this program reads 2" in error
    assert "vdm eval --force" in error
    assert command.main([*words, "--force"]) == 0
    assert json.loads((run / "eval" / "6.json").read_text())["schema_version"] == 2


def test_a_checkpoint_deleted_while_it_is_read(run, digits_dir, monkeypatch, capsys):
    restore = pipelines.evaluate.restore_ema

    def deleted_first(workdir, config, step, **kwargs):
        if step == 6:
            shutil.rmtree(run / "checkpoints" / "6", ignore_errors=True)
        return restore(workdir, config, step, **kwargs)

    monkeypatch.setattr(pipelines.evaluate, "restore_ema", deleted_first)
    result = pipelines.evaluate.run(str(run), digits_dir, step="all", overrides={"eval.time_sampling": "uniform"})
    assert [report.step for report in result.reports] == [3]
    assert "checkpoint 6 was removed meanwhile" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no checkpoint of step 6"):
        pipelines.evaluate.run(str(run), digits_dir, step="6")


def test_no_checkpoint_yet_is_nothing_to_do(run, digits_dir, capsys):
    shutil.rmtree(run / "checkpoints")
    words = ["eval", "--workdir", str(run), "--data", digits_dir]
    assert command.main([*words, "--step", "all"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command.main(words) == 1
    assert "no checkpoint yet" in capsys.readouterr().err


def test_raw_parameters_are_another_measurement(run, measured, digits_dir):
    (report,) = pipelines.evaluate.run(str(run), digits_dir, overrides={"eval.params": "raw"}).reports
    assert report.params == "raw"
    assert report.checkpoint_digest != measured["checkpoint_digest"]
    assert (run / "eval" / "6-params=raw.json").exists()


def test_two_checkpoints_are_compared_under_the_same_draws(trained, digits_dir, capsys):
    words = ["--data", digits_dir, "eval.time_sampling=uniform", "--json"]
    assert command.main(["eval", "--compare", str(trained), f"{trained}@3", *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == [6, 3]
    assert result["difference"] == pytest.approx(result["bpd"][0] - result["bpd"][1], rel=1e-6)
    # Six steps of training improve on three, and the paired error sees it where two measurements apart would not.
    assert result["better"] == str(trained)
    apart = np.hypot(*result["bpd_stderr"])
    assert result["difference_stderr"] < 0.5 * apart
    assert command.main(["eval", "--compare", str(trained), str(trained), *words[:-1]]) == 0
    assert "no difference that can be told at 2 errors" in capsys.readouterr().out


@pytest.mark.slow  # compiles two evaluations
def test_a_list_of_steps_makes_one_report_each(run, digits_dir):
    overrides = {"eval.timesteps": [2, 8], "eval.time_sampling": "uniform"}
    reports = pipelines.evaluate.run(str(run), digits_dir, overrides=overrides).reports
    assert [report.timesteps for report in reports] == [2, 8]
    # Fewer steps cost more.
    assert reports[0].bpd > reports[1].bpd
    names = sorted(path.name for path in (run / "eval").glob("*.json"))
    assert names == ["6-timesteps=2-time_sampling=uniform.json", "6-timesteps=8-time_sampling=uniform.json"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--compare", "{run}", "{run}@x"], 2, "RUN or RUN@STEP"),
        (["--compare", "{run}", "{run}@5"], 1, "no checkpoint of step 5"),
        (["--compare", "{run}", "{run}", "--workdir", "{run}"], 2, "--compare takes two runs"),
        (["--compare", "{run}", "{run}", "--codec", "8"], 2, "--compare takes two runs"),
        (["--workdir", "{run}", "--codec-repeats", "2"], 2, "give both"),
        (["--compare", "{run}", "{run}", "--reference-protocol"], 2, "--compare takes every image"),
        ([], 2, "eval needs --workdir"),
        (["--workdir", "{run}", "eval.estimator=importance_weighted"], 2, "give eval.timesteps=[100]"),
        (["--workdir", "{run}", "eval.target_se=-1"], 2, "target_se must be positive"),
        (["--workdir", "{run}", "eval.ode_tolerance=2"], 2, "ode_tolerance"),
    ],
)
def test_what_cannot_be_measured(trained, digits_dir, words, code, message, capsys):
    words = [word.format(run=trained) for word in words]
    assert command.main(["eval", *words, "--data", digits_dir]) == code
    assert message in capsys.readouterr().err


@pytest.mark.slow  # compiles an evaluation of its own
def test_another_way_between_the_end_points_leaves_the_bound(run, measured, digits_dir, capsys):
    words = ["eval", "eval.schedule=cosine", "--workdir", str(run), "--data", digits_dir]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "schedule cosine" in out
    report = json.loads((run / "eval" / "6-schedule=cosine.json").read_text())
    error = np.hypot(report["bpd_stderr"], measured["bpd_stderr"])
    assert abs(report["bpd"] - measured["bpd"]) < 4.0 * error
    assert report["var_bpd"] > 1.5 * measured["var_bpd"] > 0.0
    assert f"var_bpd {report['var_bpd']:.2f}"[:10] in out
    assert len(report["var_bpd_by_time"]) == 20
    assert np.mean(report["var_bpd_by_time"]) == pytest.approx(report["var_bpd"])
    # The loss as it was drawn stands beside what the estimate makes of it.
    table = parquet.read_table(run / "eval" / "6-schedule=cosine.parquet")
    drawn, weight = (table[name].to_numpy() for name in ("loss", "weight"))
    total = drawn + table["bpd_recon"].to_numpy() + table["bpd_latent"].to_numpy()
    assert np.mean(np.square(total - report["bpd"]) * weight) == pytest.approx(report["var_bpd"])
