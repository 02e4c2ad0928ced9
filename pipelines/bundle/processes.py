"""Programs that run beside this one and end with it."""

import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from pipelines.launch.with_parent import ending_with_parent

Done = subprocess.CompletedProcess[str]


class Processes:
    """Starts programs, so many at a time; as a context manager it ends what still runs when its block is left early."""

    def __init__(self, at_once: int) -> None:
        """Start none yet."""
        self._pool = ThreadPoolExecutor(max_workers=at_once)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                self._stopped = True
                for process in self._running:
                    process.kill()
        self._pool.shutdown()

    def start(self, command: Sequence[str], *, cwd: Path | None = None) -> "Future[Done]":
        """Return the future of a program's end; its output is text."""
        return self._pool.submit(self._run, list(command), cwd)

    def _run(self, command: list[str], cwd: Path | None) -> Done:
        with self._lock:
            if self._stopped:
                raise subprocess.SubprocessError("stopped before it began")
            process = subprocess.Popen(
                ending_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=cwd,
            )
            self._running.add(process)
        try:
            out, error = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        return subprocess.CompletedProcess(command, process.returncode, out, error)
