import subprocess
import sys
from pathlib import Path

import pytest

import vdm_lib


@pytest.mark.slow
def test_every_module_has_its_page(tmp_path):
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--output-directory", str(tmp_path), "vdm_lib"]
    subprocess.run(command, capture_output=True, check=True)
    root = Path(vdm_lib.__file__).parent
    modules = [path.relative_to(root) for path in root.rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 30
    for module in modules:
        assert (tmp_path / "vdm_lib" / module.with_suffix(".html")).exists(), module
    loading = (tmp_path / "vdm_lib" / "loading.html").read_text()
    for words in ("Return images by ancestral sampling", "Eq. (11)", "ConfigError", "b h w c"):
        assert words in loading, words
