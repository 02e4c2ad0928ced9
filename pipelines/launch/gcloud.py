"""One call of the gcloud command: an argv list, a time limit, the answer as text, and errors by their status.

gcloud's prose changes and its exit code is 1 for nearly everything, so that errors are told apart by the status that
the API gave. Only NOT_FOUND means that something is absent.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.launch.errors import CallError, LaunchError

TRANSIENT = frozenset(
    {"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "TIMEOUT", "KILLED", "SSH", "UNKNOWN"}
)
"""Statuses of failures that may be gone at the next call."""

_STATUS = re.compile(
    r"\b(NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|FAILED_PRECONDITION|"
    r"RESOURCE_EXHAUSTED|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|UNIMPLEMENTED)\b"
)
_CODE = re.compile(r'"code": (\d+)')
_CODES = {
    3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION", 10: "ABORTED", 13: "INTERNAL", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED",
}  # fmt: skip
_LOGIN = re.compile(r"active account|gcloud auth login|Reauthentication|credentials are invalid|invalid_grant", re.I)
_QUOTA = re.compile(r"quota", re.I)
_CAPACITY = re.compile(r"capacity|stockout|resource pool exhausted", re.I)
_PREEMPTED = re.compile(r'(?:in state|terminal state) "?(?:PREEMPTED|TERMINATED)')
_REMOTE_DOWN = re.compile(r"exited with return code \[255\]")
_PREFIX = re.compile(r"^ERROR: \(gcloud\.[^)]*\)\s*")


def classify(returncode: int, stderr: str) -> str:
    """Return the status of a failed call.

    Beyond the API's own: STOCKOUT (no capacity now), QUOTA (none will come without asking), PREEMPTED, SSH (the
    machine does not answer), KILLED (gcloud itself was ended), USAGE (the call is wrong), UNKNOWN.
    """
    error = stderr[at:] if (at := stderr.rfind("ERROR:")) >= 0 else stderr
    if returncode < 0 or returncode in (130, 137, 143):
        return "KILLED"
    if returncode == 2:
        return "USAGE"
    if _PREEMPTED.search(error):
        return "PREEMPTED"
    if _REMOTE_DOWN.search(error):
        return "SSH"
    if _LOGIN.search(error):
        return "UNAUTHENTICATED"
    match, code = _STATUS.search(error), _CODE.search(error)
    status = match[1] if match else _CODES.get(int(code[1]), "UNKNOWN") if code else "UNKNOWN"
    # Both come with the same code; a quota that is full does not empty by itself.
    if status in ("RESOURCE_EXHAUSTED", "UNKNOWN") and _QUOTA.search(error):
        return "QUOTA"
    if status in ("RESOURCE_EXHAUSTED", "UNKNOWN", "UNAVAILABLE") and _CAPACITY.search(error):
        return "STOCKOUT"
    return status


def reason(stderr: str) -> str:
    """Return the one line of gcloud's stderr that says why, without its prefix."""
    error = stderr[at:] if (at := stderr.rfind("ERROR:")) >= 0 else stderr
    message = re.search(r'"message": "((?:[^"\\]|\\.)*)"', error)
    if message:
        return message[1].replace('\\"', '"')
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return _PREFIX.sub("", lines[0] if lines else "it said nothing")[:400]


@dataclass
class Gcloud:
    """Calls the gcloud command of this machine.

    Attributes:
        program: name or path of gcloud.
    """

    program: str = "gcloud"
    _running: set[subprocess.Popen[str]] = field(default_factory=set, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __call__(self, words: Sequence[str], timeout_s: float) -> str:
        """Run `gcloud WORDS` and return its stdout; safe to call from several threads.

        Raises:
          CallError: it failed or took longer than timeout_s.
          LaunchError: gcloud is not installed.
        """
        if shutil.which(self.program) is None:
            raise LaunchError("gcloud is not on PATH: install it from https://cloud.google.com/sdk/docs/install")
        process = subprocess.Popen(
            [self.program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
            # A group of its own: Ctrl-C must reach this program only, which then decides what happens to the call.
            start_new_session=True,
        )
        with self._lock:
            self._running.add(process)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise CallError("TIMEOUT", f"gcloud {_short(words)} took longer than {timeout_s:.0f} s") from None
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            status = classify(process.returncode, stderr)
            raise CallError(status, f"gcloud {_short(words)}: {reason(stderr)}")
        return stdout

    def stop(self) -> None:
        """End every call that is under way; the threads that wait for them get a CallError."""
        with self._lock:
            running = list(self._running)
        for process in running:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a call and what it has started, such as ssh, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _short(words: Sequence[str]) -> str:
    """Return the words of a call that say what it does to what."""
    return " ".join(word for word in words[:5] if not word.startswith("-"))
