import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

import pipelines.export
from pipelines import command, run_dir
from pipelines.bundle import check, fresh, write
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.export.functions import unflatten_params
from vdm_lib.report import digits_of, with_error
from vdm_lib.restore import restore_ema

FORMATS = {"eps.jaxexport", "bpd.jaxexport", "sampler.jaxexport"} | {
    f"saved_model/{name}" for name in ("eps", "bpd", "sample")
}


def front_matter(bundle):
    return yaml.safe_load((bundle / "README.md").read_text().split("---\n")[1])


def test_the_bundle_is_whole_and_every_format_was_compared(exported, bundle):
    assert set(exported.max_difference) == FORMATS
    for name, difference in exported.max_difference.items():
        assert difference <= check.tolerance(name)
    assert exported.left_out == {}
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert exported.num_bytes == sum(path.stat().st_size for path in files)
    assert {*check.REQUIRED, check.SUMS, "saved_model"} == {path.name for path in bundle.iterdir()}
    assert check.check_sums(bundle) == len(files) - 1
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    with Image.open(bundle / "samples.png") as picture:
        assert picture.width >= 600


def test_the_parameters_are_the_moving_average_bit_by_bit(bundle, run):
    flat = load_file(bundle / "params.safetensors")
    assert "score_model/down.block_0/conv1/kernel" in flat
    ema = restore_ema(str(run), run_dir.read_config(str(run))).params
    nested = unflatten_params(flat)
    assert nested.keys() == ema.keys()
    np.testing.assert_array_equal(nested["gamma"]["w"], ema["gamma"]["w"])
    np.testing.assert_array_equal(flat["score_model/conv_out/kernel"], ema["score_model"]["conv_out"]["kernel"])


def test_the_card_says_what_was_measured(exported, bundle, run):
    report = run_dir.read_eval_report(str(run), 3)
    (result,) = front_matter(bundle)["model-index"][0]["results"]
    digits = digits_of(report.bpd_stderr)
    expected = [round(report.bpd, digits), round(report.bpd_stderr, digits)]
    assert [metric["value"] for metric in result["metrics"]] == expected
    assert result["dataset"]["revision"] == report.data_fingerprint
    assert json.loads((bundle / "metrics.json").read_text())["bpd"] == report.bpd
    provenance = json.loads((bundle / "provenance.json").read_text())
    assert provenance["bundle_schema_version"] == check.SCHEMA_VERSION
    text = (bundle / "README.md").read_text()
    assert f"| bits per dimension | {with_error(report.bpd, report.bpd_stderr)} |" in text
    for digest in provenance["data_fingerprints"].values():
        assert digest in text
    # Two steps at 2 a second and one at half a step a second are 3 s.
    assert f"| hours of training steps | {3 / 3600:.3g} |" in text
    assert "| training steps x batch | 3 x 16 = 48 images |" in text
    assert "UCI optical digits" in text
    for name in FORMATS:
        assert f"| `{name}` | " in text


@pytest.mark.slow  # TensorFlow and two programs in a process of their own
def test_the_code_on_the_card_runs_as_it_stands(bundle):
    blocks = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(
        f"{block}\nassert tuple(images.shape) == (4, 8, 8, 1), images.shape\nassert tuple(bpd.shape) == (4,)\n"
        f"assert tuple(eps_hat.shape) == (4, 8, 8, 1)"
        for block in blocks
    )
    environment = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=bundle, env=environment, capture_output=True)


def test_verify_checks_everything_and_measures_bpd_again(bundle, digits_dir, capsys):
    assert command.main(["verify", str(bundle), "--data", digits_dir, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert set(result["max_difference"]) == FORMATS
    assert (result["not_checked"], result["same_data"]) == ({}, True)
    bpd, stderr = result["claimed"]
    assert result["report"]["bpd"] != bpd
    assert abs(result["report"]["bpd"] - bpd) < 4 * np.hypot(stderr, result["report"]["bpd_stderr"])
    assert "measuring bpd of 359 test images" in captured.err


def test_the_checker_in_the_bundle_needs_nothing_else(bundle, tmp_path):
    alone = Path(shutil.copytree(bundle, tmp_path / "alone", ignore=shutil.ignore_patterns("saved_model")))
    lines = (alone / check.SUMS).read_text().splitlines(keepends=True)
    (alone / check.SUMS).write_text("".join(line for line in lines if "saved_model" not in line))
    done = subprocess.run(
        [sys.executable, "-I", "verify.py"], cwd=alone, capture_output=True, text=True, check=True, env={}
    )
    result = json.loads(done.stdout)
    assert (result["verified"], set(result["max_difference"])) == (True, {x for x in FORMATS if "jaxexport" in x})


def test_a_checkpoint_without_an_average_is_named(run, tmp_path, capsys):
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    config = run_dir.read_config(str(run))
    place = workdir / "checkpoints" / "3" / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(place)
        del state["ema_params"]
        checkpointer.save(place, state, force=True)
    del config
    assert command.main(["export", "--workdir", str(workdir), "--out", str(tmp_path / "bundle")]) == 1
    error = capsys.readouterr().err.splitlines()
    assert "checkpoint 3" in error[-1]
    assert "it has no ema_params; choose another step" in error[-1]
    assert not (tmp_path / "bundle").exists()


def quick_export(run, out, monkeypatch, **options):
    """Export without TensorFlow and without the processes that check."""
    monkeypatch.setattr(write, "run_checks", lambda *_: fresh.Checked())
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda _: None)
    return pipelines.export.run(str(run), str(out), num_samples=2, sample_steps=3, **options)


def test_without_an_evaluation_and_tensorflow_the_card_says_so(run, tmp_path, monkeypatch, capsys):
    workdir = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval", "metrics.jsonl"))
    out = tmp_path / "bundle"
    result = quick_export(workdir, out, monkeypatch)
    assert (result.bpd, result.bpd_stderr) == (None, None)
    assert "saved_model" in result.left_out
    assert json.loads((out / "metrics.json").read_text()) == write.NOT_MEASURED
    text = (out / "README.md").read_text()
    assert "Not measured." in text
    assert "The number is a bound" not in text
    assert "| hours of training steps | not recorded |" in text
    assert "TensorFlow is not installed" in text
    assert "import tensorflow" not in text
    assert "model-index" not in front_matter(out)
    assert f"`vdm eval --workdir {workdir} --data DATA --step 3`" in capsys.readouterr().err
    # The second time the directory is there: seen before the checkpoint is read.
    assert command.main(["export", "--workdir", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("full_at", ["config.json", "params.safetensors", check.SUMS])
def test_a_full_disk_leaves_nothing_behind(run, tmp_path, monkeypatch, full_at):
    def full(path, data):
        if path.name == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(data)

    monkeypatch.setattr(write, "_write", full)
    with pytest.raises(VdmError, match="No space left"):
        quick_export(run, tmp_path / "bundle", monkeypatch)
    assert not list(tmp_path.iterdir())


def test_what_is_not_verified_is_not_published(run, tmp_path, monkeypatch):
    monkeypatch.setattr(write.stablehlo, "serialise", lambda *_: {"eps.jaxexport": b"nonsense"})
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(VdmError, match=r"eps\.jaxexport cannot be used") as caught:
        pipelines.export.run(str(run), str(tmp_path / "bundle"), num_samples=2, sample_steps=3)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_data_than_the_run_was_trained_on_is_refused(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="samples must lie in"):
        pipelines.export.run(str(run), str(tmp_path / "bundle"), num_samples=0)
    with pytest.raises(VdmError, match=r"manifest\.json"):
        pipelines.export.run(str(run), str(tmp_path / "bundle"), data=str(other))
    assert not (tmp_path / "bundle").exists()
