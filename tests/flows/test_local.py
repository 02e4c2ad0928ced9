import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.launch.job import Job
from pipelines.launch.local import LocalProcess, stop_marked
from tests.processes import is_alive, wait_for

SAVES_AND_STOPS = """
import signal, sys, time
def stop(*_):
    print("saved"); sys.exit(75)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
print("ready")
time.sleep(60)
"""
HOLDS_OUT = SAVES_AND_STOPS.replace("def stop(*_):", "def stop(*_):\n    return")


def python(code: str) -> Job:
    return Job((sys.executable, "-c", code))


def test_lines_of_both_streams_come_one_by_one_and_the_exit_code_is_the_jobs():
    lines: list[str] = []
    code = "import sys; print('out'); print('err', file=sys.stderr); print('last', end=''); sys.exit(3)"
    assert LocalProcess().run(python(code), lines.append) == 3
    assert lines == ["out", "err", "last"]


def test_an_interrupt_stops_the_job_which_may_save_first():
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        LocalProcess(key="interrupted").run(python(SAVES_AND_STOPS), interrupt)
    assert time.monotonic() - started < 10
    assert stop_marked("interrupted") == []


def test_a_job_that_ignores_the_request_is_killed_after_the_grace():
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalProcess(key="stubborn", grace_s=0.3).run(python(HOLDS_OUT), interrupt)
    assert stop_marked("stubborn") == []


def test_a_program_that_is_not_there_is_an_exit_code_and_a_line():
    lines: list[str] = []
    assert LocalProcess().run(Job(("/no/such/program",)), lines.append) == 1
    assert "/no/such/program" in lines[-1]


def test_what_a_killed_process_left_behind_is_ended_by_the_kernel_or_by_its_key(tmp_path):
    """kill -9 of the launcher's process: the job gets SIGHUP; one that holds out is found by its key."""
    script = f"""
from pipelines.launch.job import Job
from pipelines.launch.local import LocalProcess
job = Job(({sys.executable!r}, "-c", {HOLDS_OUT!r}))
LocalProcess(key="left-behind").run(job, lambda line: print(line, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout as lines:
        assert lines.readline() == "ready\n"
        parent.kill()
    assert len(stop_marked("left-behind", grace_s=0.3)) == 1
    assert stop_marked("left-behind") == []


def test_the_job_saves_when_its_parent_is_killed(tmp_path):
    mark = tmp_path / "saved"
    # It reports its progress to a pipe that nobody reads any more before it saves.
    code = f"""
from pipelines.progress import Progress
from pipelines.stop import stop_on_signal
import time
with stop_on_signal() as stop, Progress("probe", total=1, unit="step") as progress:
    print("ready")
    while not stop.requested:
        time.sleep(0.02)
    for _ in range(3):
        progress.say("still here")
    open({str(mark)!r}, "w").close()
"""
    script = f"""
from pipelines.launch.job import Job
from pipelines.launch.local import LocalProcess
LocalProcess().run(Job(({sys.executable!r}, "-c", {code!r})), lambda line: print(line, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout as lines:
        assert lines.readline() == "ready\n"
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(mark.exists, "the mark")


def test_the_job_of_a_killed_parent_is_not_asked_a_second_time_while_it_saves(tmp_path):
    mark = tmp_path / "saved"
    code = f"""
from pipelines.stop import stop_on_signal
import time
with stop_on_signal() as stop:
    print("ready")
    while not stop.requested:
        time.sleep(0.02)
    time.sleep(1)
    open({str(mark)!r}, "w").close()
"""
    script = f"""
from pipelines.launch.job import Job
from pipelines.launch.local import LocalProcess
LocalProcess(key="saving").run(Job(({sys.executable!r}, "-c", {code!r})), lambda line: print(line, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout as lines:
        assert lines.readline() == "ready\n"
        os.kill(parent.pid, signal.SIGKILL)
    assert len(stop_marked("saving", grace_s=20)) == 1
    assert mark.exists()


def test_a_job_that_was_asked_goes_on_saving_when_its_launcher_is_killed(tmp_path):
    """As a cancelled flow is after 30 s: neither the kernel nor the hook asks a second time."""
    asked, mark = tmp_path / "asked", tmp_path / "saved"
    code = f"""
from pathlib import Path
from pipelines.stop import stop_on_signal
import time
with stop_on_signal() as stop:
    print("ready")
    while not stop.requested:
        time.sleep(0.02)
    Path({str(asked)!r}).touch()
    time.sleep(1)
    Path({str(mark)!r}).touch()
"""
    script = f"""
import signal
from pipelines.launch.job import Job
from pipelines.launch.local import LocalProcess
signal.signal(signal.SIGTERM, signal.default_int_handler)
LocalProcess(key="cancelled").run(Job(({sys.executable!r}, "-c", {code!r})), lambda line: print(line, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout as lines:
        assert lines.readline() == "ready\n"
        parent.terminate()
        wait_for(asked.exists, "the request")
        parent.kill()
    assert len(stop_marked("cancelled")) == 1
    assert mark.exists()


def test_keys_of_others_are_left_alone():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"VDM_JOB_KEY": "mine-too"})
    with other:
        assert stop_marked("mine") == []
        assert is_alive(other.pid)
        other.communicate(b"\n")
