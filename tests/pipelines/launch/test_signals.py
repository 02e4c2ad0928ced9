"""The kernel tells a program of its parent's death once for each thread of it: that must be one wish to stop."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells of a parent's death")
PROGRAM = """
import os, pathlib, sys, time
from pipelines.launch.signals import as_interrupts

end = pathlib.Path(sys.argv[1])
parent = os.getppid()

def save():
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{parent}/stat") and time.monotonic() < until:
        time.sleep(0.01)

def interrupted():
    with as_interrupts():
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            save()

def asked():
    from pipelines.stop import stop_on_signal
    with stop_on_signal() as stop:
        print("ready", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        save()

try:
    globals()[sys.argv[2]]()
    word = "saved"
except KeyboardInterrupt:
    word = "interrupted again"
end.with_suffix(".tmp").write_text(word)
end.with_suffix(".tmp").replace(end)
"""
PARENT = """
import subprocess, sys, threading, time
from pipelines.launch.with_parent import ending_with_parent
for _ in range(30):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
process = subprocess.Popen(ending_with_parent([sys.executable, "-c", *sys.argv[1:]]), stdout=subprocess.PIPE)
process.stdout.readline()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("attempt", range(2))
@pytest.mark.parametrize("how", ["interrupted", "asked"])
@pytest.mark.parametrize("nohup", [[], ["nohup"]])
def test_the_death_of_a_parent_with_threads_is_one_wish(tmp_path: Path, how: str, nohup: list[str], attempt: int):
    end = tmp_path / "end"
    words = [*nohup, sys.executable, "-c", PARENT, PROGRAM, str(end), how]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
        assert line == b"ready\n"
    wait_for(end.exists, "the end of the program", 60.0)
    assert end.read_text() == "saved"


def test_under_nohup_a_terminal_that_goes_away_ends_nothing(tmp_path: Path):
    code = PROGRAM.replace('print("ready", flush=True)', "os.kill(os.getpid(), signal.SIGHUP); sys.exit(7)")
    words = ["nohup", sys.executable, "-c", f"import signal{code}", str(tmp_path / "end")]
    for how in ("interrupted", "asked"):
        done = subprocess.run([*words, how], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 7, done.stderr
