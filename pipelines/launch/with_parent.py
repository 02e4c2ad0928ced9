"""Ends a program with the process that has started it, by a signal of the kernel; only Linux has that.

Run as a script (`python with_parent.py PARENT PROGRAM ...`) it asks for SIGTERM at its parent's death and becomes the
program. As a script only the standard library is needed, so that it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def set_death_signal(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies; 0 takes that back."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def ending_with_parent(argv: Sequence[str]) -> list[str]:
    """Return a program that gets SIGTERM when the process that starts it is gone, killed for one.

    The death of the thread that starts it counts as that of the process: it must wait for the program.
    """
    return [sys.executable, "-I", __file__, str(os.getpid()), *argv]


if __name__ == "__main__":
    set_death_signal(signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this job is gone")
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"cannot start {sys.argv[2]}: {error.strerror}")
