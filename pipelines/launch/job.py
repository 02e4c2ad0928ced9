"""What a launcher is given and what every launcher does, wherever it runs the job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

EXIT_STOPPED = 75
"""A job's exit code for 'stopped on request, state saved, run me again'."""


@dataclass(frozen=True)
class Job:
    """One program to run.

    Attributes:
        argv: program and arguments; never a shell string.
        env: variables added to the environment that the program would have anyway.
        workdir: the run directory of the job, local or gs://; relaunching with the same one resumes.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""


class Launcher(Protocol):
    """Runs a job somewhere and waits for it."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Run the job to its end and return its exit code: 0 done, 75 stopped with the state saved.

        Each line of the job's output is given to `on_line` as it comes, without the line feed; with several workers
        the lines are those of worker 0.

        Raises:
          LaunchError: the job could not be run at all.
        """
        ...
