"""How soon the command answers."""

import subprocess
import sys

from benchmarks.figures import Figure, of_repetitions, seconds


def figures() -> list[Figure]:
    """Return seconds of `vdm --help` as a whole process."""
    command = [sys.executable, "-m", "pipelines.command", "--help"]
    times = seconds(lambda: subprocess.run(command, capture_output=True, check=True).returncode)
    return [of_repetitions("vdm --help", times, "s", bar="under 0.5 s")]
