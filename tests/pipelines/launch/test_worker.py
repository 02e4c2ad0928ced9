"""The program on each worker, run here: what is started once stays single, is seen, stopped and ended."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.launch import worker
from tests.processes import wait_for

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def ask(tmp_path):
    """Call worker.py in a home of its own and return its answer."""

    def call(*words: str) -> dict:
        done = subprocess.run(
            [sys.executable, worker.__file__, *words], capture_output=True, text=True, check=True, timeout=60,
            env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1].removeprefix("VDM "))

    yield call
    call("kill", "r")


def _start(ask, tmp_path: Path, attempt: str, *how: str) -> dict:
    return ask("start", "r", attempt, "{}", "--", sys.executable, str(STAND_IN), str(tmp_path), "10", *how)


def test_starting_twice_starts_once_and_a_stop_is_told_once(ask, tmp_path):
    assert ask("status", "r") == {"state": "absent", "attempt": None}
    first = _start(ask, tmp_path, "1", "wait")
    assert (first["state"], first["attempt"]) == ("running", "1")
    assert _start(ask, tmp_path, "1", "wait")["state"] == "running"
    wait_for(lambda: (tmp_path / "starts.0").exists(), "the start")
    assert len((tmp_path / "starts.0").read_text().splitlines()) == 1
    wait_for(lambda: "step 5" in ask("status", "r", "1", "0")["log"], "the half")
    ask("stop", "r")
    ask("stop", "r")
    wait_for(lambda: ask("status", "r")["state"] == "exited", "the end")
    ended = ask("status", "r", "1", "0")
    assert (ended["exit_code"], ended["stop_requested"]) == (75, True)
    assert ended["log"].endswith("stopped at step 5\n")
    assert ask("status", "r", "1", str(ended["offset"]))["log"] == ""


def test_a_new_attempt_ends_the_one_before(ask, tmp_path):
    _start(ask, tmp_path, "1", "wait")
    wait_for(lambda: (tmp_path / "starts.0").exists(), "the start")
    _start(ask, tmp_path, "2", "wait")
    assert ask("status", "r", "1")["exit_code"] == 137
    assert ask("status", "r")["attempt"] == "2"


def test_a_program_dies_with_its_supervisor_and_is_told_lost(ask, tmp_path):
    _start(ask, tmp_path, "1", "wait")
    child = int((tmp_path / ".vdm-runs" / "r" / "1" / "child").read_text())
    supervisor = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: ask("status", "r")["state"] == "lost", "the loss")
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the program")


def test_a_program_that_is_not_there_ends_with_127(ask):
    ask("start", "r", "1", "{}", "--", "no-such-program")
    wait_for(lambda: ask("status", "r")["state"] == "exited", "the end")
    ended = ask("status", "r")
    assert ended["exit_code"] == 127
    assert "no-such-program" in ended["log"]
