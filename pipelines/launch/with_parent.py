"""Ends a program with the process that has started it, by a signal of the kernel; only Linux has that.

Run as a script (`python with_parent.py PARENT PROGRAM ...`) it asks for a signal at its parent's death and becomes the
program. As a script only the standard library is needed, so that it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


DEATH_SIGNAL = signal.SIGHUP
"""What the kernel sends when the parent dies, and again for each thread of the parent that dies after another.

It ends a program that does not handle it. One that has something to save must take the first and let the others pass;
so it is not SIGTERM, whose second one is a person's wish to end at once.
"""


def ending_with_parent(argv: Sequence[str]) -> list[str]:
    """Return a program that gets DEATH_SIGNAL when the process that starts it is gone, killed for one.

    The death of the thread that starts it counts as that of the process: it must wait for the program.
    """
    return [sys.executable, "-I", __file__, str(os.getpid()), *argv]


if __name__ == "__main__":
    # Started from under nohup it would be ignored.
    signal.signal(DEATH_SIGNAL, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, DEATH_SIGNAL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this job is gone")
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"cannot start {sys.argv[2]}: {error.strerror}")
