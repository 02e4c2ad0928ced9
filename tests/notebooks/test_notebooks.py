"""The notebooks: nothing of a run is kept in them, and each runs from top to bottom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import configs
import pipelines.evaluate
import pipelines.train

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
# Enough that every cell has something to work on.
SMALL = {
    "swirl.ipynb": {"STEPS": 12, "NUM_SAMPLES": 50, "SAMPLING_STEPS": 10},
    "simple_diffusion.ipynb": {"STEPS": 12, "SAMPLING_STEPS": 10, "CLASSIFIER_DRAWS": 2},
    "cifar10_tour.ipynb": {"STEPS": 6, "NUM": 4},
}


@pytest.fixture(scope="module")
def tour(digits_dir, tmp_path_factory) -> dict[str, str]:
    """What the tour walks through: a run, which was evaluated, and its data."""
    run = str(tmp_path_factory.mktemp("tour") / "run")
    pipelines.train.run(configs.load("debug"), digits_dir, run)
    pipelines.evaluate.run(run, digits_dir)
    return {"WORKDIR": run, "DATA": digits_dir}


def papermill(name: str, out: Path, values: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Run a notebook in a process of its own, as a user has it: warnings of Jupyter's own are none of ours."""
    words = [word for key, value in values.items() for word in ("-p", key, str(value))]
    # Nothing is read from, or left in, the home of whoever runs the tests.
    places = {each: str(out.parent / each) for each in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    return subprocess.run(
        [sys.executable, "-m", "papermill", "--kernel", "python3", "--start-timeout", "900", "--cwd", str(out.parent),
         *words, str(NOTEBOOKS / name), str(out)],
        capture_output=True, text=True, check=False, env=os.environ | places,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_kept(name):
    notebook = json.loads((NOTEBOOKS / name).read_text())
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    assert {cell["execution_count"] for cell in code} == {None}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name, tmp_path, request):
    out = tmp_path / name
    places = request.getfixturevalue("tour") if name == "cifar10_tour.ipynb" else {}
    run = papermill(name, out, SMALL[name] | places)
    assert run.returncode == 0, run.stderr[-3000:]
    cells = json.loads(out.read_text())["cells"]
    kinds = [output["output_type"] for cell in cells for output in cell.get("outputs", [])]
    assert "error" not in kinds
    assert kinds.count("display_data") >= 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("emnist", 'EMNIST cannot be had here .*: set DATA = "digits"'),
        ("mnist", 'DATA is "digits" or "emnist", got \'mnist\''),
    ],
)
def test_simple_diffusion_without_its_data_says_what_to_do(data, message, monkeypatch):
    # As where TFDS is not installed; where it cannot download the same is said.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    cells = json.loads((NOTEBOOKS / "simple_diffusion.ipynb").read_text())["cells"]
    (cell,) = ("".join(cell["source"]) for cell in cells if 'DATA == "emnist"' in "".join(cell["source"]))
    with pytest.raises((RuntimeError, ValueError), match=message):
        exec(cell, {"DATA": data})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tour_without_a_run_says_what_to_do(tmp_path):
    run = papermill("cifar10_tour.ipynb", tmp_path / "out.ipynb", {})
    assert run.returncode != 0
    assert "demo/run has no config.json, which vdm train writes: run `make demo` first" in run.stderr
