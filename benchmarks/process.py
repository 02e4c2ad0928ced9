"""A program run as a process of its own, with what it took: memory and time of a process are never those of another."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

# The peak of a process begins with that of the process that starts it, so a small one does.
_START = """
import json, os, sys
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
code = os.waitstatus_to_exitcode(status)
os.write(int(sys.argv[1]), json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]).encode())
"""


@dataclass(frozen=True)
class Ended:
    """A process that ended well."""

    said: str
    """Its standard output."""
    cpu_s: float
    peak_gib: float
    """Largest resident memory."""


def run(command: Sequence[str], given: str = "", *, quiet: bool = False) -> Ended:
    """Run a command to its end.

    Args:
      command: program and arguments.
      given: standard input.
      quiet: keep its standard error for the message of a failure instead of showing it.

    Raises:
      RuntimeError: it ended with another code than 0.
    """
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile("w+")) if quiet else None
        report = stack.enter_context(tempfile.TemporaryFile("w+"))
        starter = [sys.executable, "-S", "-c", _START, str(report.fileno()), *command]
        said = subprocess.run(
            starter,
            input=given,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            pass_fds=[report.fileno()],
            check=True,
        ).stdout
        report.seek(0)
        code, cpu_s, peak_kib = json.load(report)
        if code:
            why = ""
            if errors is not None:
                errors.seek(0)
                why = f": {errors.read()[-1000:]}"
            raise RuntimeError(f"{' '.join(command[1:])} ended with exit code {code}{why}")
    return Ended(said, cpu_s, peak_kib / 2**20)
