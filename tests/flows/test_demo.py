"""What `make demo-flows` finds of a demo before it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from flows import demo

ENDS_WHEN_ASKED = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(600)
"""


def start(root: Path, code: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PREFECT_HOME": str(root / "prefect")}
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    demo._started.append(process)  # pyright: ignore[reportArgumentType]
    return process


def test_the_flow_of_a_worker_that_crashed_is_asked_to_stop_and_not_killed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "pids.json").write_text(json.dumps({"server": gone.pid, "worker": gone.pid}))
    with start(tmp_path, ENDS_WHEN_ASKED, "prefect.engine") as flow:
        assert demo.stop(tmp_path)
        assert flow.wait(60) == 7
    assert not demo.stop(tmp_path)


def test_the_processes_of_other_directories_are_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pids.json").write_text("{}")
    with start(tmp_path / "b", ENDS_WHEN_ASKED, "prefect.engine") as other:
        assert not demo.stop(tmp_path / "a")
        assert other.poll() is None
        other.terminate()
