"""A directory that one process at a time writes into; the system lets go of it when the process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def held(directory: os.PathLike[str] | str) -> Iterator[None]:
    """Hold a directory until the block ends; it needs no file in it.

    Object stores and some network file systems lock no directories: there it is as if nobody else held it.

    Raises:
      BlockingIOError: another process holds it.
      OSError: there is no such directory.
    """
    if "://" in os.fspath(directory):
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)
