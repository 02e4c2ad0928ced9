"""The notebooks: nothing of a run is kept in them, and each runs from top to bottom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
# Enough that every cell has something to work on.
SMALL = {
    "swirl.ipynb": {"STEPS": 12, "NUM_SAMPLES": 50, "SAMPLING_STEPS": 10},
    "simple_diffusion.ipynb": {"STEPS": 12, "SAMPLING_STEPS": 10, "CLASSIFIER_DRAWS": 2},
}


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
def test_it_runs_from_top_to_bottom(name, tmp_path):
    out = tmp_path / name
    values = [word for key, value in SMALL.get(name, {}).items() for word in ("-p", key, str(value))]
    # Nothing is read from, or left in, the home of whoever runs the tests.
    places = {each: str(tmp_path / each) for each in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    # In a process of its own, as a user has it: warnings of Jupyter's own are none of ours.
    run = subprocess.run(
        [sys.executable, "-m", "papermill", "--kernel", "python3", "--start-timeout", "900", "--cwd", str(tmp_path),
         *values, str(NOTEBOOKS / name), str(out)],
        capture_output=True, text=True, check=False, env=os.environ | places,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    cells = json.loads(out.read_text())["cells"]
    kinds = [output["output_type"] for cell in cells for output in cell.get("outputs", [])]
    assert "error" not in kinds
    assert kinds.count("display_data") >= 5
