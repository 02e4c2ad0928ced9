"""What the states of the workers mean together; a pure function."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pipelines.launch.crew import WorkerState
from pipelines.launch.job import EXIT_STOPPED


class Verdict(Enum):
    """What became of an attempt."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped with the state saved"
    ASKED = "stopped on request with the state saved"
    BROKEN = "lost a worker"
    FAILED = "failed"
    GONE = "the machines were taken away"
    DELETED = "somebody deleted the machines"
    LIMIT = "reached the limit of time or cost"


@dataclass(frozen=True)
class Judgement:
    """A verdict and the worker that it is about: the one that failed first.

    A program whose peer has died ends too, with 134, so that the first failure is the one that counts.
    """

    verdict: Verdict
    worker: WorkerState | None = None


_BY_THE_MACHINE = frozenset({134, 135, 137, 139, 143})
"""Ends by a signal: abort (what the other workers do when one is lost), bus error, kill, segfault, terminate."""


def judge(states: Sequence[WorkerState]) -> Judgement:
    """Return what the states of a started attempt say; RUNNING as long as a worker runs or does not answer.

    GONE, DELETED and LIMIT are not in the states: `watch` adds them.
    """
    if any(state.state in ("running", "unknown") for state in states):
        return Judgement(Verdict.RUNNING)
    failures = sorted((state for state in states if state.exit_code != 0), key=lambda state: state.finished or 0.0)
    if not failures:
        return Judgement(Verdict.DONE)
    first = failures[0]
    if first.state != "exited" or first.exit_code in _BY_THE_MACHINE:
        return Judgement(Verdict.BROKEN, first)
    if first.exit_code == EXIT_STOPPED:
        return Judgement(Verdict.ASKED if any(state.stop_requested for state in states) else Verdict.STOPPED, first)
    return Judgement(Verdict.FAILED, first)


def some_ended(states: Sequence[WorkerState]) -> bool:
    """Say whether a worker has ended while others have not; they will not go on for long."""
    return any(state.state not in ("running", "unknown") for state in states)
