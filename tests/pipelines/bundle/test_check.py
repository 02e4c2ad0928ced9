import ast
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.bundle import check
from pipelines.bundle.fresh import run_checks
from vdm_lib.errors import VdmError

FILES = [*check.REQUIRED, "saved_model/saved_model.pb", "saved_model/variables/variables.index", check.SUMS]


def test_the_checker_imports_nothing_of_the_project():
    tree = ast.parse(Path(check.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    third_party = {name.split(".")[0] for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert third_party == {"jax", "numpy", "safetensors", "tensorflow", "onnxruntime"}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_or_a_missing_file_is_caught_and_named(copy, name):
    original = (copy / name).read_bytes()
    for place in (0, len(original) // 2, len(original) - 1):
        data = bytearray(original)
        data[place] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(check.BundleError, match=re.escape(name)):
            check.check_sums(copy)
    (copy / name).unlink()
    with pytest.raises(check.BundleError, match=re.escape(name)):
        check.check_sums(copy)


def test_an_extra_file_is_caught_and_named(copy):
    (copy / "saved_model" / "more.txt").write_text("more")
    with pytest.raises(check.BundleError, match=r"saved_model/more\.txt is not listed"):
        check.check_sums(copy)


def test_damage_is_one_line_from_a_fresh_process(copy):
    (copy / "eps.jaxexport").unlink()
    with pytest.raises(VdmError, match=r"not verified: eps\.jaxexport is missing") as caught:
        run_checks(copy, ["sums"])
    assert "\n" not in str(caught.value)
    with pytest.raises(VdmError, match="is not a directory"):
        run_checks(copy / "nothing")


def test_a_run_is_told_from_a_bundle(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "provenance.json").write_text("{}")
    with pytest.raises(VdmError, match=f"is a run, no bundle: .* vdm export --workdir {tmp_path}"):
        run_checks(tmp_path)


@pytest.mark.parametrize(("version", "remedy"), [(1, "export the run again"), (99, "the version that wrote it")])
def test_another_schema_is_refused_with_what_to_do(copy, version, remedy):
    provenance = json.loads((copy / "provenance.json").read_text())
    provenance["bundle_schema_version"] = version
    (copy / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(VdmError, match=f"says schema {version}, this checks schema 2: .*{remedy}"):
        run_checks(copy, ["sums"])


@pytest.mark.slow  # imports TensorFlow
def test_a_saved_model_of_a_newer_tensorflow_names_both_versions(copy):
    provenance = json.loads((copy / "provenance.json").read_text())
    here = provenance["packages"]["tensorflow"]
    provenance["packages"]["tensorflow"] = "99.0"
    (copy / "provenance.json").write_text(json.dumps(provenance))
    (copy / "saved_model" / "saved_model.pb").write_bytes(b"what only a newer version reads")
    with pytest.raises(VdmError, match=rf"written with tensorflow 99\.0, here is tensorflow {here}") as caught:
        run_checks(copy, ["tensorflow"])
    assert "\n" not in str(caught.value)


def test_another_result_is_caught_though_the_checksums_fit(copy):
    with np.load(copy / "check.npz") as file:
        inputs = dict(file)
    inputs["bpd"] *= np.float32(1.001)
    np.savez(copy / "check.npz", **inputs)
    with pytest.raises(VdmError, match=r"bpd\.jaxexport differs from the model by [0-9.]+e-0[34]"):
        run_checks(copy, ["jax"])


def test_differences_are_relative_to_the_largest_value():
    values = np.array([1.0, -4.0], np.float32)
    assert check.compare("eps", "eps", values + np.float32(0.5), values) == 0.125
    assert check.compare("eps", "eps", values * np.float32("nan"), values) == np.inf
    levels = np.array([1, 2, 3, 4], np.uint8)
    assert check.compare("sample", "sample", levels + np.array([0, 0, 0, 1], np.uint8), levels) == 0.0625
    # Levels wrap around where they are subtracted as bytes.
    assert check.compare("sample", "sample", levels - np.array([1, 0, 0, 0], np.uint8), levels) == 0.0625
    with pytest.raises(check.BundleError, match=r"eps\.jaxexport returns"):
        check.compare("eps", "eps.jaxexport", values[:1], values)


def test_an_unreadable_function_is_named(copy):
    (copy / "bpd.jaxexport").write_bytes(b"nonsense")
    with pytest.raises(VdmError, match=r"bpd\.jaxexport cannot be used"):
        run_checks(copy, ["jax"])
