"""One training run at a time in a run directory.

On a local disk the system holds the lock and lets go of it when the process ends, however it ends. On gs:// it is an
object with a time in it, renewed every minute; one that was not renewed for five is stale and taken over.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vdm_lib.errors import CheckpointError, ConfigError

_RENEW_EVERY_S, _STALE_AFTER_S = 60.0, 300.0


@contextmanager
def lock(workdir: str) -> Iterator[None]:
    """Hold a run directory, made if absent, for one training run.

    Raises:
      ConfigError: it is a file.
      CheckpointError: another run trains in it.
    """
    with _lease(workdir) if workdir.startswith("gs://") else _flock(Path(workdir)):
        yield


@contextmanager
def _flock(directory: Path) -> Iterator[None]:
    if directory.is_file():
        raise ConfigError(f"{directory} is a file: choose another run directory")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _in_use(str(directory), file.read().strip()) from None
        file.truncate(0)
        file.write(_me())
        file.flush()
        yield


@contextmanager
def _lease(workdir: str) -> Iterator[None]:
    import fsspec

    store: Any = fsspec.filesystem("gs")
    path = f"{workdir.removeprefix('gs://').rstrip('/')}/.lock"

    def content() -> bytes:
        return json.dumps({"holder": _me(), "renewed": time.time()}).encode()

    def take() -> bool:
        try:
            store.pipe_file(path, content(), mode="create")
        except Exception as error:
            # What gcsfs makes of the failed precondition depends on its version.
            if isinstance(error, FileExistsError) or "412" in str(error) or "onditionNotMet" in str(error):
                return False
            raise
        return True

    if not take():
        held = json.loads(store.cat_file(path))
        age_s = time.time() - float(held["renewed"])
        if age_s < _STALE_AFTER_S:
            raise _in_use(workdir, f"{held['holder']}, last seen {age_s:.0f} s ago")
        store.rm_file(path)
        if not take():
            raise _in_use(workdir, "one that took over a stale lock just now")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_EVERY_S):
            try:
                store.pipe_file(path, content())
            except Exception:
                # The next renewal may succeed; five in a row must fail before anyone takes over.
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        store.rm_file(path)


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _in_use(workdir: str, holder: str) -> CheckpointError:
    who = f" ({holder})" if holder else ""
    return CheckpointError(f"another process trains in {workdir}{who}: wait for it, or choose another --workdir")
