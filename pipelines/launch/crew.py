"""The machines of a slice as one crew: install, start, look and stop on all of them, a bounded number at a time."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipelines.launch.errors import CallError, LaunchError
from pipelines.launch.job import Job
from pipelines.launch.remote import Remote

COMMON_PLACE = ".vdm-runs"
"""Directory in the home of a worker where `install` leaves worker.py, beside the runs."""
_ANSWER = "VDM "
_QUICK_S, _COPY_S, _INSTALL_S = 300.0, 600.0, 1800.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class WorkerState:
    """What became of the program on one worker.

    Attributes:
        worker: its number.
        state: running; exited; lost: its supervisor ended without a word, as when the machine was started anew;
            absent: nothing was started; unknown: the worker did not answer.
        exit_code: how the program ended, 128 + N by signal N.
        finished: when, in seconds since 1970 by the worker's clock.
        attempt: number of the attempt that this is about.
        stop_requested: it was asked to save its state and end.
        command: hash of the program and its arguments.
        log: new part of its output.
        offset: byte of the output where that part ends.
        problem: why it is unknown.
    """

    worker: int
    state: Literal["running", "exited", "lost", "absent", "unknown"]
    exit_code: int | None = None
    finished: float | None = None
    attempt: int | None = None
    stop_requested: bool = False
    command: str = ""
    log: str = ""
    offset: int = 0
    problem: str = ""

    def __str__(self) -> str:
        """Return one line for a person."""
        code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
        return f"worker {self.worker}: {self.state}{code}" + (f" ({self.problem})" if self.problem else "")


@dataclass
class Crew:
    """The supervisors of a run on all of its machines.

    Attributes:
        remote: how the machines are reached.
        run: name of the run's directory on them.
        package: name of the directory in their home that was sent; not needed to look and to stop.
        calls_at_once: how many machines are called at a time.
    """

    remote: Remote
    run: str
    package: str = ""
    calls_at_once: int = 8
    _offset: int = field(default=0, init=False)

    def install(self, directory: Path, say: Callable[[str], None]) -> None:
        """Copy the package to every worker and make its environment there, unless the same one is there.

        Raises:
          LaunchError: a worker could not install it.
        """
        self._send(directory)
        answers = self._each(lambda worker: self._ask(worker, _INSTALL_S, "install"))
        for worker, answer in enumerate(answers):
            if not answer["installed"]:
                raise LaunchError(f"worker {worker} could not install the package: {answer['error']}")
        cached = sum(answer["cached"] for answer in answers)
        say(f"installed on {len(answers)} workers" + (f", {cached} had it already" if cached else ""))

    def settle(self, directory: Path) -> None:
        """Copy worker.py to every worker; the program's own environment is there already."""
        self._send(directory)
        self._each(lambda worker: self._ask(worker, _QUICK_S, "settle"))

    def _send(self, directory: Path) -> None:
        # The first connection makes ssh's keys, which several at once get wrong.
        self.remote.send(0, directory, _COPY_S)
        self._each(lambda worker: self.remote.send(worker, directory, _COPY_S), range(1, self.remote.num_workers))

    def start(self, job: Job, attempt: int, per_worker: Callable[[int], Sequence[str]] = lambda _: ()) -> None:
        """Start the job on every worker; starting the same attempt twice starts it once.

        Raises:
          LaunchError: a worker did not start it.
        """
        self._offset = 0

        def begin(worker: int) -> dict[str, Any]:
            argv, environment = _program(job, per_worker(worker))
            return self._ask(worker, _QUICK_S, "start", self.run, str(attempt), environment, "--", *argv)

        for worker, answer in enumerate(self._each(begin)):
            if answer["state"] == "absent":
                raise LaunchError(
                    f"worker {worker} did not start the program: {answer.get('error', 'no reason given')}"
                )

    def look(self, attempt: int | None = None) -> list[WorkerState]:
        """Return the state of every worker; `log` of worker 0 holds what is new since the last look."""

        def one(worker: int) -> WorkerState:
            words = [] if attempt is None else [str(attempt), *([str(self._offset)] if worker == 0 else [])]
            try:
                return _state(worker, self._ask(worker, _QUICK_S, "status", self.run, *words))
            except CallError as error:
                return WorkerState(worker, "unknown", problem=str(error))

        states = self._each(one)
        if attempt is not None and states[0].state not in ("unknown", "absent"):
            self._offset = states[0].offset
        return states

    def more(self, attempt: int) -> str:
        """Return what worker 0 has printed since the last look."""
        state = _state(0, self._ask(0, _QUICK_S, "status", self.run, str(attempt), str(self._offset)))
        self._offset = max(self._offset, state.offset)
        return state.log

    def log(self, worker: int, offset: int | None = None) -> WorkerState:
        """Return the state of one worker with its output from a byte on, or the end of it; raises CallError."""
        newest = _state(worker, self._ask(worker, _QUICK_S, "status", self.run))
        if offset is None or newest.attempt is None:
            return newest
        return _state(worker, self._ask(worker, _QUICK_S, "status", self.run, str(newest.attempt), str(offset)))

    def stop(self, grace_s: float, poll_s: float) -> list[WorkerState]:
        """Ask the program to save its state and end, wait at most grace_s, then kill what is left."""
        states = self._tell("stop")
        deadline = time.monotonic() + grace_s
        while any(state.state in ("running", "unknown") for state in states) and time.monotonic() < deadline:
            time.sleep(poll_s)
            states = self.look()
        if any(state.state in ("running", "unknown") for state in states):
            states = self._tell("kill")
        return states

    def kill(self) -> list[WorkerState]:
        """End the program at once."""
        return self._tell("kill")

    def ask_to_stop(self) -> list[WorkerState]:
        """Ask the program to save its state and end, and do not wait."""
        return self._tell("stop")

    def _tell(self, action: str) -> list[WorkerState]:
        def one(worker: int) -> WorkerState:
            try:
                return _state(worker, self._ask(worker, _QUICK_S, action, self.run))
            except CallError as error:
                return WorkerState(worker, "unknown", problem=str(error))

        return self._each(one)

    def _ask(self, worker: int, timeout_s: float, action: str, *words: str) -> dict[str, Any]:
        # Only what needs the environment is asked of the package; the rest works without knowing which it was.
        place = self.package if action in ("settle", "install", "start") else COMMON_PLACE
        output = self.remote.run(worker, ["python3", f"{place}/worker.py", action, *words], timeout_s)
        answers = [line for line in output.splitlines() if line.startswith(_ANSWER)]
        if not answers:
            raise CallError("UNKNOWN", f"worker {worker} gave no answer to {action}")
        return json.loads(answers[-1][len(_ANSWER) :])

    def _each(self, function: Callable[[int], _T], workers: Sequence[int] | None = None) -> list[_T]:
        workers = range(self.remote.num_workers) if workers is None else workers
        if len(workers) <= 1:
            return [function(worker) for worker in workers]
        pool = ThreadPoolExecutor(min(self.calls_at_once, len(workers)))
        try:
            return list(pool.map(function, workers))
        finally:
            # After Ctrl-C the calls under way are ended by whoever owns them; waiting for them here could take minutes.
            pool.shutdown(wait=False, cancel_futures=True)


def command_hash(job: Job) -> str:
    """Return the mark of a job's program, arguments and variables, as worker.py makes it."""
    argv, environment = _program(job)
    settings = {"argv": argv, "environment": json.loads(environment)}
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def _program(job: Job, more: Sequence[str] = ()) -> tuple[list[str], str]:
    return [*job.argv, *more], json.dumps({"PYTHONUNBUFFERED": "1", **job.env})


def _state(worker: int, answer: dict[str, Any]) -> WorkerState:
    return WorkerState(
        worker=worker,
        state=answer["state"],
        exit_code=answer.get("exit_code"),
        finished=answer.get("finished"),
        attempt=None if answer.get("attempt") is None else int(answer["attempt"]),
        stop_requested=answer.get("stop_requested", False),
        command=answer.get("command", ""),
        log=answer.get("log", ""),
        offset=answer.get("offset", 0),
    )
