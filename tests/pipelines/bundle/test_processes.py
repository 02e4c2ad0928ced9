import subprocess
import sys
import time

import pytest

from pipelines.bundle.processes import Processes
from tests.processes import is_alive

FOREVER = "import pathlib, sys, threading; pathlib.Path(sys.argv[1]).touch(); threading.Event().wait()"


def python(program, *words):
    return [sys.executable, "-S", "-c", program, *map(str, words)]


def test_output_and_exit_code_come_back(tmp_path):
    program = "import os, sys; print(os.getcwd()); print('x', file=sys.stderr); sys.exit(3)"
    with Processes(at_once=1) as processes:
        done = processes.start(python(program), cwd=tmp_path).result()
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path}\n", "x\n")


def test_an_interrupt_ends_what_runs_and_starts_nothing_more(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    deadline = time.monotonic() + 60
    with pytest.raises(KeyboardInterrupt), Processes(at_once=1) as processes:
        running = processes.start(python(FOREVER, first))
        waiting = processes.start(python(FOREVER, second))
        while not first.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert running.result().returncode == -9
    assert waiting.cancelled()
    assert not second.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells of a parent's death")
def test_a_killed_parent_leaves_none_behind(tmp_path):
    writes = "import os, sys, threading; print(os.getpid(), file=open(sys.argv[1], 'w')); threading.Event().wait()"
    parent = (
        "import sys; from pipelines.bundle.processes import Processes\n"
        "with Processes(at_once=1) as processes:\n"
        f"    processes.start([sys.executable, '-S', '-c', {writes!r}, sys.argv[1]]).result()"
    )
    file = tmp_path / "pid"
    process = subprocess.Popen([sys.executable, "-c", parent, str(file)])
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().endswith("\n")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    while is_alive(int(file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_asked_for_too_late_does_not_run():
    processes = Processes(at_once=1)
    with pytest.raises(KeyboardInterrupt), processes:
        raise KeyboardInterrupt
    with pytest.raises((RuntimeError, subprocess.SubprocessError)):
        processes.start(python("")).result()
