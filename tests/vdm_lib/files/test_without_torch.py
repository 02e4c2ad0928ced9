"""A start does not import PyTorch, whatever is installed beside this project."""

import os
import subprocess
import sys

_RECORD = """
import sys
from vdm_lib.metrics import MetricsWriter
with MetricsWriter(sys.argv[1], from_step=0) as record:
    record.write(1, {"bpd": 3.0})
assert "torch" not in sys.modules
import torch
"""


def test_a_record_is_begun_without_torch_which_can_be_imported_afterwards(tmp_path):
    package, imported = tmp_path / "packages" / "torch", tmp_path / "imported"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(imported)!r}, 'a').write('once ')\nTensor = None\n")
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", _RECORD, str(tmp_path / "run")]
    subprocess.run(command, env=environment, check=True)
    assert imported.read_text() == "once "
    assert list((tmp_path / "run" / "tensorboard").iterdir())
