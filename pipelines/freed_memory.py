"""Memory that a command has freed stays with its process, so that the next step finds it in place.

A step of training on CPU takes gigabytes and frees them again. By default glibc hands large blocks back to the system
at once, which clears them anew for the next step, page by page: a sixth of the step of `cifar10`.
"""

import contextlib
import ctypes
import os
from pathlib import Path

from pipelines.quiet import has_tpu

# Numbers of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, before other threads have begun; `malloc_trim` gives it back all the same.

    Nothing is changed where an accelerator holds the arrays, with another libc, or where the environment already says
    what malloc shall do.
    """
    told = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if told or has_tpu() or _has_gpu():
        return
    with contextlib.suppress(OSError, AttributeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        # Only the arena of the main thread can grow without blocks of their own.
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def _has_gpu() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))
