"""Follows a training by its record: progress for people, an event for each checkpoint."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.events import emit_event

from flows import run_view
from flows.parameters import slug

CHECKPOINT_COMMITTED = "vdm.checkpoint.committed"


def describe(row: dict[str, float], num_steps: int) -> str:
    """Return how far a training is, by the newest row of its record."""
    step, rate = int(row["step"]), row.get("steps_per_s", 0.0)
    left = f", {format_seconds((num_steps - step) / rate)} left at {rate:.1f} steps/s" if rate > 0 else ""
    return f"step {step:,} of {num_steps:,}, training loss {row['bpd']:.3f} bits/dim (no measurement){left}"


def format_seconds(seconds: float) -> str:
    """Return a duration in two units at most, such as 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def announce(workdir: str, data: str, step: int) -> None:
    """Emit the event on which the evaluation of a checkpoint starts."""
    emit_event(
        CHECKPOINT_COMMITTED,
        resource={"prefect.resource.id": f"vdm.run.{slug(workdir)}", "prefect.resource.name": workdir},
        payload={"workdir": workdir, "data": data, "step": step},
    )


class _Follower:
    """Looks at a run directory from time to time; what it last saw is its only state."""

    def __init__(self, workdir: str, data: str, num_steps: int) -> None:
        self._workdir, self._data, self._num_steps = workdir, data, num_steps
        self._logger = get_run_logger()
        # Checkpoints of an earlier call were announced by it, or are found by the schedule.
        self._announced = set(run_view.checkpoint_steps(workdir))
        self._last_step = -1
        self._artifact = create_progress_artifact(
            progress=0.0, key=f"progress-{slug(workdir)}", description="no step yet"
        )

    def look(self) -> None:
        """Publish what is new. Nothing that goes wrong here may end a training."""
        try:
            self._look()
        except Exception as error:
            self._logger.warning("progress could not be published: %s", error)

    def _look(self) -> None:
        for step in run_view.checkpoint_steps(self._workdir):
            if step not in self._announced:
                announce(self._workdir, self._data, step)
                self._announced.add(step)
                self._logger.info("checkpoint %d is complete", step)
        rows = run_view.metrics(self._workdir)
        if rows and int(rows[-1]["step"]) != self._last_step:
            self._last_step = int(rows[-1]["step"])
            text = describe(rows[-1], self._num_steps)
            self._logger.info("%s", text)
            update_progress_artifact(self._artifact, progress=100 * self._last_step / self._num_steps, description=text)


@contextmanager
def following(workdir: str, data: str, num_steps: int, every_s: float = 5.0) -> Iterator[None]:
    """Follow a run directory while the block runs, and look once more at its end."""
    follower = _Follower(workdir, data, num_steps)
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(every_s):
            follower.look()

    # The thread publishes for this flow run, which Prefect keeps in context variables.
    context: Any = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(loop,), name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        follower.look()
