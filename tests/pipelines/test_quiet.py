import os
import subprocess
import sys

CODE = "from pipelines.quiet import keep_quiet; keep_quiet(); from matplotlib.figure import Figure; Figure()"


def test_a_home_that_cannot_be_written_is_no_matter(tmp_path):
    (tmp_path / "file").write_text("")
    home = {"HOME": str(tmp_path / "file" / "none"), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    environment = {key: value for key, value in os.environ.items() if key != "MPLCONFIGDIR"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment | home, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
