"""The launcher for TPU pods: get a slice, install, run, start again after what can be mended, give it back."""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.launch.budget import Budget
from pipelines.launch.crew import Crew, WorkerState, command_hash
from pipelines.launch.errors import CallError, LaunchError
from pipelines.launch.gcloud import Gcloud
from pipelines.launch.job import EXIT_STOPPED, Job
from pipelines.launch.package import UNBUILT, build, check
from pipelines.launch.rehearsal import Rehearsal
from pipelines.launch.remote import GcloudRemote
from pipelines.launch.signals import undisturbed
from pipelines.launch.tpu_api import TpuApi, is_passing
from pipelines.launch.tpu_lease import TpuLease
from pipelines.launch.tpu_request import RUN_LABEL, TpuRequest
from pipelines.launch.verdict import Judgement, Verdict
from pipelines.launch.watch import Patience, watch
from pipelines.launch.worker import VENV_PYTHON
from pipelines.planning import prices

_LAST_LINES = 15
_USAGE = 2


@dataclass
class Counts:
    """What a launch went through.

    Attributes:
        attempts: times that the program was started.
        slices: TPU slices that it ran on.
        restarts: starts on the same slice after a worker was lost or asked to stop.
        failures: times that the program failed by itself.
    """

    attempts: int = 0
    slices: int = 0
    restarts: int = 0
    failures: int = 0


def make_pod(
    request: TpuRequest,
    *,
    max_hours: float,
    max_cost_usd: float | None = None,
    keep: bool = False,
    dry_run: Callable[[str], None] | None = None,
    say: Callable[[str], None],
    patience: Patience | None = None,
) -> "TpuPod":
    """Return the launcher of a request, after all that can be checked before anything is created.

    Args:
      request: the slice.
      max_hours: how long it may be held, over all slices that follow each other.
      max_cost_usd: what that may come to by the price file.
      keep: leave the slice when the job is over.
      dry_run: takes each command of gcloud instead of its being run.
      say: takes one line about what happens.
      patience: how long to wait for what.

    Raises:
      ConfigError: a limit that cannot be kept.
      LaunchError: gcloud is missing or not logged in, there is no project, or the package does not build.
    """
    patience = patience or Patience(poll_s=0.0 if dry_run else Patience.poll_s)
    price = prices.usd_per_hour(request.slice, request.provisioning)
    budget = Budget.of(max_hours, max_cost_usd, price, request.accelerator)
    if dry_run:
        gcloud: Gcloud | Rehearsal = Rehearsal(request.slice.num_hosts, dry_run, {RUN_LABEL: request.run_id})
    else:
        gcloud = Gcloud()
    api = TpuApi(gcloud, request.project, say, patience.poll_s)
    api.check_login()
    if dry_run:
        check()
    package = UNBUILT if dry_run else build()
    return TpuPod(TpuLease(api, request, budget), gcloud, package, say, patience, keep)


@dataclass
class TpuPod:
    """Runs a job on every worker of a TPU slice that it makes and deletes.

    The job must be able to go on from its run directory: it is started again after a preemption or the loss of a
    worker. Call `run` from the main thread; whatever ends it early stops the program and deletes the slice.

    Attributes:
        lease: the slice.
        gcloud: what runs the calls.
        package: directory that `package.build` returned.
        say: takes one line about what happens.
        patience: how long to wait for what.
        keep: leave the slice when the job is over.
        max_slices: TPU slices to use up by preemptions.
        max_restarts: starts on the same slice after the loss of a worker.
        max_failures: failures of the program to try again after.
    """

    lease: TpuLease
    gcloud: Gcloud | Rehearsal
    package: Path
    say: Callable[[str], None]
    patience: Patience = field(default_factory=Patience)
    keep: bool = False
    max_slices: int = 100
    max_restarts: int = 10
    max_failures: int = 1
    counts: Counts = field(default_factory=Counts)
    workers: list[WorkerState] = field(default_factory=list)
    _crew: Crew | None = field(default=None, init=False)
    _attempt: int = field(default=0, init=False)
    _installed: bool = field(default=False, init=False)
    _lost_at: float | None = field(default=None, init=False)

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Run the job to its end and return its exit code: 0 done, 75 stopped with the state saved.

        Raises:
          LaunchError: no slice could be had, it was lost too often or deleted by somebody, or could not be deleted.
        """
        # The python that runs this program is not the one on the workers, which is that of the package.
        job = replace(job, argv=tuple(VENV_PYTHON if word == sys.executable else word for word in job.argv))
        try:
            return self._until_over(job, on_line)
        except BaseException:
            self._stop_program()
            raise
        finally:
            self.gcloud.stop()
            if not self.keep:
                self._release()

    def bring_up(self) -> None:
        """Get the slice and install on it, and leave it; what was begun is deleted if that fails."""
        try:
            self._make_crew()
        except BaseException:
            self.gcloud.stop()
            if not self.lease.adopted:
                self._release()
            raise

    def _until_over(self, job: Job, on_line: Callable[[str], None]) -> int:
        while True:
            judgement = self._one_attempt(job, on_line)
            if judgement.verdict in (Verdict.STOPPED, Verdict.BROKEN):
                machines = self._condition()
                if machines is not Verdict.RUNNING:
                    judgement = Judgement(machines, judgement.worker)
            match judgement.verdict:
                case Verdict.DONE:
                    return 0
                case Verdict.ASKED | Verdict.LIMIT:
                    return EXIT_STOPPED
                case Verdict.DELETED:
                    self.lease.zone = None
                    raise LaunchError(
                        "the TPU was deleted by somebody else; the state is saved as of the last checkpoint, "
                        "and the same command goes on from it"
                    )
                case Verdict.FAILED:
                    code = judgement.worker.exit_code if judgement.worker else None
                    if code != _USAGE and self._wait_for_lease():
                        continue
                    self.counts.failures += 1
                    if code == _USAGE or self.counts.failures > self.max_failures:
                        return code or 1
                    self.say(f"starting it again ({self.counts.failures} of {self.max_failures})")
                case Verdict.GONE:
                    self._lost_at = time.monotonic()
                    self.say("the slice is gone: asking for a new one, to go on from the last checkpoint")
                    self._crew, self._installed = None, False
                    self.lease.release()
                case _:
                    self._lost_at = time.monotonic()
                    self.counts.restarts += 1
                    if self.counts.restarts > self.max_restarts:
                        raise LaunchError(f"a worker was lost {self.counts.restarts} times on slices that stayed")
                    self.say("the slice is still there: starting again in place")

    def _one_attempt(self, job: Job, on_line: Callable[[str], None]) -> Judgement:
        if self.lease.budget.left_hours <= 0:
            return Judgement(Verdict.LIMIT)
        try:
            crew = self._crew if self._crew and self._installed else self._make_crew()
            self._begin(crew, job)
        except CallError as error:
            self.say(f"the workers could not be prepared: {error}")
            if error.status == "PREEMPTED":
                return Judgement(Verdict.GONE)
            if error.status != "NOT_FOUND" and not is_passing(error):
                raise
            time.sleep(self.patience.poll_s)
            return Judgement(Verdict.BROKEN)
        judgement, self.workers = watch(crew, self._attempt, on_line, self.patience, self._condition)
        self._tell(judgement)
        return judgement

    def _wait_for_lease(self) -> bool:
        """After a lost attempt, wait until it holds the run directory no more; once for each such loss."""
        if self._lost_at is None:
            return False
        left_s = max(0.0, self._lost_at + self.patience.lease_s - time.monotonic())
        self._lost_at = None
        self.say(f"the attempt that was lost may still hold the run directory: trying again in {left_s:.0f} s")
        time.sleep(left_s)
        return True

    def _make_crew(self) -> Crew:
        if self.counts.slices >= self.max_slices:
            raise LaunchError(f"{self.max_slices} slices were taken away: that is the limit")
        self.lease.acquire()
        assert self.lease.zone is not None
        self.counts.slices += 1
        request = self.lease.request
        remote = GcloudRemote(
            self.gcloud, request.name, self.lease.api.place(self.lease.zone), self.lease.num_workers,
            request.internal_ips,
        )  # fmt: skip
        crew = Crew(remote, request.run_id, self.package.name)
        if isinstance(self.gcloud, Rehearsal):
            crew.calls_at_once = 1  # so that the commands come in order
        self._crew = crew
        crew.install(self.package, self.say)
        self._installed = True
        return crew

    def _begin(self, crew: Crew, job: Job) -> None:
        """Start the next attempt, or go on with one that an earlier launch of this run has left running."""
        if self.lease.adopted:
            states = crew.look()
            if silent := [state for state in states if state.state == "unknown"]:
                raise CallError("SSH", str(silent[0]))
            self.lease.adopted = False
            attempts = {state.attempt for state in states}
            self._attempt = max([self._attempt, *(attempt for attempt in attempts if attempt is not None)])
            running = [state for state in states if state.state == "running"]
            if len(running) == len(states) and attempts == {self._attempt}:
                if {state.command for state in running} == {command_hash(job)}:
                    self.say(f"attempt {self._attempt} is running there: watching it")
                    self.counts.attempts += 1
                    return
                self._crew, self.lease.zone = None, None  # neither to be stopped nor to be deleted from here
                raise LaunchError(
                    f"{self.lease.request.name} runs another command for the same run directory: "
                    f"end it first with `vdm tpu stop {self.lease.request.name}`"
                )
        self._attempt += 1
        self.counts.attempts += 1
        crew.start(job, self._attempt)
        self.say(f"attempt {self._attempt} is running on {crew.remote.num_workers} workers")

    def _condition(self) -> Verdict:
        return Verdict.GONE if self.lease.zone is None else self.lease.condition()

    def _tell(self, judgement: Judgement) -> None:
        """Say how an attempt ended; of a failure the last lines of the worker that failed first."""
        worker = judgement.worker
        self.say(f"attempt {self._attempt} {judgement.verdict.value}" + (f" ({worker})" if worker else ""))
        if judgement.verdict in (Verdict.FAILED, Verdict.BROKEN) and worker and self._crew:
            with contextlib.suppress(CallError):
                for line in self._crew.log(worker.worker).log.splitlines()[-_LAST_LINES:]:
                    self.say(f"  worker {worker.worker} | {line}")

    def _release(self) -> None:
        """Delete the slice; a second Ctrl-C does not leave it behind."""
        with undisturbed(lambda: self.say(f"deleting {self.lease.request.name} first; wait for it")):
            self.lease.release()

    def _stop_program(self) -> None:
        """Let the program save its state, when the launch is ended from outside while it runs."""
        self.gcloud.stop()
        if self._crew is not None and (self._attempt or self.lease.adopted) and not self.keep:
            self.say("stopping the program; it saves its state")
            with contextlib.suppress(LaunchError):
                self.workers = self._crew.stop(self.patience.grace_s, self.patience.poll_s)
