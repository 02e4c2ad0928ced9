"""A command that is interrupted says so in one line and exits 1, wherever the signal meets it."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, signal, sys, threading
import pipelines.commands.info
from pipelines import command

# Whoever runs the tests may ignore it, as nohup does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def work(args):
    {work}
    threading.Event().wait(60)
    print("done")

pipelines.commands.info.run = work
atexit.register(print, "taken down")
sys.argv = ["vdm", "info", "debug"]
command.program()
"""
IN_A_LINE = "os.kill(os.getpid(), signal.{name}); sum(range(1000))"
IN_A_DESTRUCTOR = """
    class Object:
        def __del__(self):
            os.kill(os.getpid(), signal.{name})
            sum(range(1000))
    Object()"""


@pytest.mark.parametrize("work", [IN_A_LINE, IN_A_DESTRUCTOR])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_an_interrupt_ends_the_process_at_once(name, work):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work=work.format(name=name))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "vdm info: interrupted\n")


IN_AN_IMPORT = """
    from pipelines.commands import words
    class Meanwhile:
        def import_module(self, name):
            try:
                os.kill(os.getpid(), signal.{name})
                sum(range(1000))
            except KeyboardInterrupt:
                raise ImportError("as jaxlib")
    words.importlib = Meanwhile()
    words.job("train")"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_an_import_makes_no_error_of_its_own_of_an_interrupt(name):
    program = PROGRAM.format(work=IN_AN_IMPORT.format(name=name))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "vdm: interrupted\n")
