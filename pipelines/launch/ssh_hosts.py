"""The launcher for hosts of one's own, with GPUs or without: the same supervisors, reached by plain ssh."""

import contextlib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.launch import worker
from pipelines.launch.crew import Crew, WorkerState
from pipelines.launch.errors import CallError, LaunchError
from pipelines.launch.job import EXIT_STOPPED, Job
from pipelines.launch.remote import SshRemote
from pipelines.launch.verdict import Verdict
from pipelines.launch.watch import Patience, watch

_PACKAGE = "vdm-hosts"
_LAST_LINES = 15


@dataclass
class SshHosts:
    """Runs a job on every host of a list.

    The hosts have the project installed, all alike, and ssh reaches them without a password. With several, the first
    is the one that the others meet at, and `vdm train` is given its address and each host's number.

    Attributes:
        hosts: as ssh takes them, such as me@gpu-1.
        python: path of the python on every host that has the project.
        coordinator: HOST:PORT of the first host as the others reach it; None is its name and port 8476.
        say: takes one line about what happens.
        patience: how long to wait for what.
        max_restarts: starts after the loss of a worker.
    """

    hosts: tuple[str, ...]
    python: str
    coordinator: str | None = None
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    patience: Patience = field(default_factory=Patience)
    max_restarts: int = 3
    workers: list[WorkerState] = field(default_factory=list)

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Run the job on all hosts to its end and return its exit code: 0 done, 75 stopped with the state saved.

        Raises:
          LaunchError: a host does not answer or could not start it, or workers were lost too often.
        """
        if not self.hosts:
            raise LaunchError("no hosts to run on")
        job = replace(job, argv=tuple(self.python if word == sys.executable else word for word in job.argv))
        crew = self._crew(job.workdir)
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary) / _PACKAGE
            directory.mkdir()
            shutil.copy(worker.__file__, directory / "worker.py")
            crew.settle(directory)
        if any(state.state == "running" for state in self.stop(job.workdir)):
            raise LaunchError(f"what an earlier launch for {job.workdir} has left running does not end")
        first = max((state.attempt or 0 for state in crew.look()), default=0) + 1
        try:
            for attempt in range(first, first + self.max_restarts + 1):
                crew.start(job, attempt, self._place)
                self.say(f"attempt {attempt} is running on {len(self.hosts)} hosts")
                judgement, self.workers = watch(crew, attempt, on_line, self.patience, lambda: Verdict.RUNNING)
                about = judgement.worker
                self.say(f"attempt {attempt} {judgement.verdict.value}" + (f" ({about})" if about else ""))
                match judgement.verdict:
                    case Verdict.DONE:
                        return 0
                    case Verdict.STOPPED | Verdict.ASKED:
                        return EXIT_STOPPED
                    case Verdict.GONE:
                        raise LaunchError(f"{self.hosts[about.worker if about else 0]} does not answer any more")
                    case Verdict.FAILED:
                        self._show_end(crew, about)
                        return (about.exit_code if about else None) or 1
                    case _:
                        self._show_end(crew, about)
            raise LaunchError(f"a worker was lost {self.max_restarts + 1} times; its last lines are above")
        except BaseException:
            with contextlib.suppress(LaunchError):
                self.workers = crew.stop(self.patience.grace_s, self.patience.poll_s)
            raise

    def stop(self, workdir: str) -> list[WorkerState]:
        """Let what an earlier launch for this run directory has left running save its state and end.

        Returns the state of each host; one that does not answer, or was never used, is `unknown`.
        """
        crew = self._crew(workdir)
        states = crew.look()
        if any(state.state == "running" for state in states):
            states = crew.stop(self.patience.grace_s, self.patience.poll_s)
        return states

    def _crew(self, workdir: str) -> Crew:
        return Crew(SshRemote(self.hosts), hashlib.sha256(workdir.encode()).hexdigest()[:12], _PACKAGE)

    def _place(self, number: int) -> tuple[str, ...]:
        """Return the arguments that tell one host where all of them meet."""
        if len(self.hosts) == 1:
            return ()
        meet = self.coordinator or f"{self.hosts[0].rpartition('@')[2]}:8476"
        return ("--coordinator", meet, "--num-processes", str(len(self.hosts)), "--process-id", str(number))

    def _show_end(self, crew: Crew, about: WorkerState | None) -> None:
        with contextlib.suppress(CallError):
            for line in crew.log(about.worker if about else 0).log.splitlines()[-_LAST_LINES:]:
                self.say(f"  {self.hosts[about.worker if about else 0]} | {line}")
