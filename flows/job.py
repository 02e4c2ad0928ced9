"""One `vdm` command as a task: its lines in the run's log, its result as a value, its end together with the flow's."""

import json
import os
import sys
from collections import deque
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from flows.redaction import redact
from pipelines.launch.errors import NO_CAPACITY, CallError
from pipelines.launch.job import EXIT_STOPPED, Job, Launcher
from pipelines.launch.local import LocalProcess, stop_marked
from vdm_lib.errors import VdmError

_KEPT_LINES = 20
# What ssh and gcloud call a connection that broke or a service that is not there now.
_PASSING = ("SSH", "TIMEOUT", "UNAVAILABLE", "INTERNAL")


class JobError(VdmError):
    """A job that ended with an error; the message holds its last line."""


class PassingError(JobError):
    """A job that can succeed when it is run again: it was pre-empted, or there was no capacity or no connection."""


def vdm(*words: str, workdir: str = "") -> Job:
    """Return the job `vdm WORDS --json`."""
    return Job((sys.executable, "-m", "pipelines.command", *words, "--json"), workdir=workdir)


def run_key() -> str:
    """Return the mark of this run's processes: the id of the outermost flow run of this process."""
    return os.environ.get("PREFECT__FLOW_RUN_ID") or str(runtime.flow_run.id)


def _can_be_mended(task: Any, task_run: Any, state: Any) -> bool:
    """Say whether running the job again can succeed."""
    return isinstance(state.result(raise_on_failure=False), PassingError)


@task(
    name="job",
    task_run_name="{title}",
    retries=6,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_jitter_factor=0.5,
    retry_condition_fn=_can_be_mended,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_job(title: str, job: Job, launcher: Launcher | None = None, *, stop_is_final: bool = False) -> dict[str, Any]:
    """Run a job to its end and return what it printed as JSON.

    Must be called, not submitted: only in the main thread does a cancelled flow reach it and stop the job.

    Args:
      title: name of the task run.
      job: what `vdm` returned.
      launcher: where it runs; None is this machine.
      stop_is_final: exit code 75 is not run again: the job has a limit of its own that was reached.

    Raises:
      PassingError: it was stopped with its state saved, or did not start for a reason that passes; retried with
        growing, jittered delays.
      JobError: it failed; not retried, as it would fail again.
    """
    logger = get_run_logger()
    key = run_key()
    # A run that is retried after a crash must not meet its own former job.
    left = stop_marked(key)
    if left:
        logger.warning("stopped %d processes that an earlier attempt of this run had left", len(left))
    last: deque[str] = deque(maxlen=_KEPT_LINES)

    def on_line(line: str) -> None:
        line = redact(line)
        last.append(line)
        logger.info("%s", line)

    logger.info("$ %s", redact(" ".join(job.argv)))
    try:
        code = (launcher or LocalProcess(key=key)).run(job, on_line)
    except CallError as error:
        kind = PassingError if error.status in _PASSING else JobError
        raise kind(redact(f"{title}: {error}")) from None
    if code == EXIT_STOPPED:
        message = redact(f"{title} was stopped with its state saved: running it again goes on from there")
        raise JobError(message) if stop_is_final else PassingError(message)
    if code != 0:
        reason = next((line for line in reversed(last) if line.startswith("vdm ")), last[-1] if last else "no output")
        kind = PassingError if NO_CAPACITY in reason else JobError
        raise kind(redact(f"{title} ended with exit code {code}: {reason}"))
    return _result(title, last)


def _result(title: str, lines: deque[str]) -> dict[str, Any]:
    for line in reversed(lines):
        if line.startswith("{"):
            return json.loads(line)
    raise JobError(f"{title} printed no result")
