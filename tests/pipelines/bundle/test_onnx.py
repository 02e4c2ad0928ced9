import importlib.util

import pytest

import pipelines.export
from pipelines import command
from pipelines.bundle import check
from pipelines.bundle.fresh import check_written, run_checks, start_writer
from pipelines.bundle.processes import Processes
from vdm_lib.errors import VdmError

ONNX = "pipelines.bundle.onnx_model"
needs_jax2onnx = pytest.mark.skipif(
    importlib.util.find_spec("jax2onnx") is None, reason="jax2onnx is not installed: make setup-onnx"
)


def run_writer(bundle):
    with Processes(at_once=1) as processes:
        check_written(ONNX, start_writer(processes, ONNX, bundle))


@needs_jax2onnx
@pytest.mark.slow
def test_the_network_as_onnx_is_that_of_the_model(copy):
    run_writer(copy)
    (difference,) = run_checks(copy, ["onnxruntime"]).max_difference.values()
    assert 0.0 < difference <= check.TOLERANCES["eps"]
    (copy / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(VdmError, match=r"model\.onnx cannot be used"):
        run_checks(copy, ["onnxruntime"])


def test_without_jax2onnx_it_is_refused_before_the_work(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipelines.export.importlib.util, "find_spec", lambda _: None)
    assert command.main(["export", "--workdir", str(run), "--out", str(tmp_path / "b"), "--onnx"]) == 2
    assert "pip install '.[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_writer_that_fails_is_one_line(tmp_path):
    with pytest.raises(VdmError, match="cannot write onnx_model of the bundle: FileNotFoundError") as caught:
        run_writer(tmp_path)
    assert "\n" not in str(caught.value)
