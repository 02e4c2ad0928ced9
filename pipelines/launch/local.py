"""The launcher for this machine: a job as a process that never outlives who started it.

A flow that is killed with -9 cannot stop its job any more, and a training would hold the accelerator.
"""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.launch.errors import LaunchError
from pipelines.launch.job import Job
from pipelines.launch.with_parent import ending_with_parent

# The process that started a job; while it lives it is the parent of the job's first process.
_PARENT_VARIABLE = "VDM_JOB_PARENT"

# A process that was killed is seen until the kernel has taken it down; one that waits for a disk, for longer.
_DYING_S = 5.0

SAVING_S = 300.0
"""What a job is given to save its state once it has been asked to stop."""

KEY_VARIABLE = "VDM_JOB_KEY"
"""Marks the processes of a job, so that `stop_marked` finds them without a file that could be stale."""


@dataclass(frozen=True, kw_only=True)
class LocalProcess:
    """Runs jobs on this machine.

    Attributes:
        key: mark of the job's processes, such as the id of the flow run; empty marks nothing.
        grace_s: seconds between SIGTERM and SIGKILL. A checkpoint must fit in, on a slow disk too. Prefect kills a
            cancelled flow after 30 s; the job goes on saving then, and the flow's hook waits for it.
    """

    key: str = ""
    grace_s: float = SAVING_S

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Run the job and return its exit code; whatever ends the wait early stops the job.

        Raises:
          LaunchError: the program cannot be started.
        """
        marked = {KEY_VARIABLE: self.key, _PARENT_VARIABLE: str(os.getpid())} if self.key else {}
        try:
            process = subprocess.Popen(
                ending_with_parent(job.argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1", **marked, **job.env},
                # A process group of its own: a signal reaches what the job has started, and Ctrl-C goes through here.
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"cannot start {job.argv[0]}: {error}") from error
        assert process.stdout is not None
        try:
            for line in process.stdout:
                on_line(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            # What it says while it stops is read, or it would wait for a reader, or end because there is none.
            drain = threading.Thread(target=deque, args=(process.stdout, 0), daemon=True)
            drain.start()
            stop_group(process, self.grace_s)
            drain.join(_DYING_S)
            raise
        finally:
            process.stdout.close()


def stop_group(process: subprocess.Popen[str], grace_s: float) -> None:
    """End a job that leads its process group: SIGTERM, after grace_s SIGKILL for what is left."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def stop_marked(key: str, grace_s: float = SAVING_S) -> list[int]:
    """End every process of this machine that a job with this key has left, and return their ids.

    SIGTERM goes to the jobs themselves, not to what they have started: a job may need its own children to end in good
    order, as `vdm tpu run` needs gcloud to delete its slice. A job whose launcher is gone has it from that launcher or
    from the kernel: a second one would end it before its state is saved. After grace_s SIGKILL goes to what is left.

    Does nothing where there is none, or where /proc is not: then the kernel has no death signal either, and the
    user sees the job with `ps`.
    """
    found = sorted(_marked(key))
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    while left := set(_marked(key)):
        if time.monotonic() >= deadline:
            for pid in left:
                _signal(pid, signal.SIGKILL)
        if time.monotonic() >= deadline + _DYING_S:
            break
        for pid in left - asked:
            if (parent := _parent(pid)) not in left:
                if not _told_by_kernel(pid, parent):
                    _signal(pid, signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.1)
    return found


def _marked(key: str) -> Iterator[int]:
    """Yield the processes that carry the key in their environment, but not a zombie, whose environment is empty."""
    wanted = f"{KEY_VARIABLE}={key}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        if wanted in _environment(path.name):
            yield int(path.name)


def _told_by_kernel(pid: int, parent: int | None) -> bool:
    """Say whether this is the first process of a job and has lost the parent whose death the kernel tells it."""
    started_by = [word for word in _environment(pid) if word.startswith(f"{_PARENT_VARIABLE}=".encode())]
    orphan = bool(started_by) and started_by[-1] != f"{_PARENT_VARIABLE}={parent}".encode()
    try:
        # Its children inherit the variable; only the first process leads the session.
        return orphan and os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def _environment(pid: int | str) -> list[bytes]:
    """Return the environment of a process, empty if it has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    """Return the parent of a process, None if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return
