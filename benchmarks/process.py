"""A program run as a process of its own, with what it took: memory and time of a process are never those of another."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass


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
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(given)
        process.stdin.close()
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            why = ""
            if errors is not None:
                errors.seek(0)
                why = f": {errors.read()[-1000:]}"
            raise RuntimeError(f"{' '.join(command[1:])} ended with exit code {process.returncode}{why}")
    return Ended(said, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)
