"""Watch one attempt of a crew until it is over: pass on worker 0's lines, keep the limits, see the machines go."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.launch.crew import Crew, WorkerState
from pipelines.launch.errors import CallError
from pipelines.launch.verdict import Judgement, Verdict, judge, some_ended
from pipelines.launch.worker import LOG_CHUNK_BYTES


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        poll_s: between two looks.
        grace_s: from SIGTERM to SIGKILL; a checkpoint must fit in.
        settle_s: for the other workers to end once one has; jax's own limit for a lost peer is 100 s.
        unreachable_s: until workers that do not answer are given up.
        lease_s: after which nothing is held any more by an attempt that was lost; pipelines/lock.py has 300 s on gs://.
    """

    poll_s: float = 15.0
    grace_s: float = 300.0
    settle_s: float = 180.0
    unreachable_s: float = 900.0
    lease_s: float = 330.0


def watch(
    crew: Crew,
    attempt: int,
    on_line: Callable[[str], None],
    patience: Patience,
    machines_are: Callable[[], Verdict],
) -> tuple[Judgement, list[WorkerState]]:
    """Return what became of an attempt, and the last state of each worker.

    Args:
      crew: the workers.
      attempt: its number.
      on_line: takes each line of worker 0.
      patience: how long to wait.
      machines_are: looks at what carries the workers: RUNNING, or GONE, DELETED or LIMIT.
    """
    lines = _Lines(on_line)
    ended_at: float | None = None
    answered_at = time.monotonic()
    while True:
        machines = machines_are()
        if machines is Verdict.LIMIT:
            states = crew.stop(patience.grace_s, patience.poll_s)
            _drain(crew, attempt, lines)
            return Judgement(Verdict.LIMIT), states
        states = [] if machines is not Verdict.RUNNING else crew.look(attempt)
        if machines is not Verdict.RUNNING:
            lines.end()
            return Judgement(machines), states
        now = time.monotonic()
        if states[0].state != "unknown":
            lines.feed(states[0].log)
        judgement = judge(states)
        if judgement.verdict is not Verdict.RUNNING:
            if len(states[0].log) >= LOG_CHUNK_BYTES // 2:
                _drain(crew, attempt, lines)
            lines.end()
            return judgement, states
        if all(state.state != "unknown" for state in states):
            answered_at = now
        if now - answered_at > patience.unreachable_s:
            lines.end()
            return Judgement(Verdict.GONE, next(state for state in states if state.state == "unknown")), states
        if some_ended(states):
            ended_at = now if ended_at is None else ended_at
            if now - ended_at > patience.settle_s:
                states = crew.stop(min(30.0, patience.grace_s), patience.poll_s)
                judgement = judge(states)
                lines.end()
                return (Judgement(Verdict.GONE) if judgement.verdict is Verdict.RUNNING else judgement), states
        time.sleep(patience.poll_s)


def _drain(crew: Crew, attempt: int, lines: "_Lines") -> None:
    """Pass on what is left of worker 0's output, if it still answers."""
    try:
        while log := crew.more(attempt):
            lines.feed(log)
    except CallError:
        pass
    lines.end()


class _Lines:
    """Cuts text that comes in pieces into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._rest = on_line, ""

    def feed(self, text: str) -> None:
        """Pass on every line that is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(line)

    def end(self) -> None:
        """Pass on the last line, whose line feed never came."""
        if self._rest:
            self._on_line(self._rest)
        self._rest = ""
