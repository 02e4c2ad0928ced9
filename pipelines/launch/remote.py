"""How a machine is reached: gcloud's ssh and scp for a TPU VM, the plain ones for a host of one's own.

One call per machine: with several, gcloud returns 0 although some failed, and mixes what they print.
"""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.launch.errors import CallError

Call = Callable[[Sequence[str], float], str]
"""Runs a program with these words and a limit in seconds, and returns its stdout; raises CallError."""


class Remote(Protocol):
    """The machines of a slice, numbered from 0."""

    @property
    def num_workers(self) -> int:
        """How many there are."""
        ...

    def run(self, worker: int, argv: Sequence[str], timeout_s: float) -> str:
        """Run a command in the home directory of a machine and return its stdout; raises CallError."""
        ...

    def send(self, worker: int, directory: Path, timeout_s: float) -> None:
        """Copy a directory into the home directory of a machine; raises CallError."""
        ...


@dataclass(frozen=True)
class GcloudRemote:
    """The workers of a TPU VM.

    Attributes:
        call: runs gcloud.
        node: name of the TPU VM.
        place: flags that say where it is: project and zone.
        num_workers: its machines.
        internal_ip: reach them by their addresses inside the network.
    """

    call: Call
    node: str
    place: tuple[str, ...]
    num_workers: int
    internal_ip: bool = False

    def run(self, worker: int, argv: Sequence[str], timeout_s: float) -> str:
        """Run a command on a worker."""
        words = ["compute", "tpus", "tpu-vm", "ssh", self.node, *self._to(worker), f"--command={shlex.join(argv)}"]
        return self.call(words, timeout_s)

    def send(self, worker: int, directory: Path, timeout_s: float) -> None:
        """Copy a directory to a worker."""
        words = ["compute", "tpus", "tpu-vm", "scp", "--recurse", str(directory), f"{self.node}:.", *self._to(worker)]
        self.call(words, timeout_s)

    def _to(self, worker: int) -> list[str]:
        return [*self.place, f"--worker={worker}", *(["--internal-ip"] if self.internal_ip else [])]


@dataclass(frozen=True)
class SshRemote:
    """Hosts of one's own, reached by ssh without a password.

    Attributes:
        hosts: as ssh takes them: HOST, USER@HOST, or a name of ~/.ssh/config.
    """

    hosts: tuple[str, ...]

    @property
    def num_workers(self) -> int:
        """How many hosts there are."""
        return len(self.hosts)

    def run(self, worker: int, argv: Sequence[str], timeout_s: float) -> str:
        """Run a command on a host."""
        return _call(["ssh", *_SSH, self.hosts[worker], "--", shlex.join(argv)], timeout_s)

    def send(self, worker: int, directory: Path, timeout_s: float) -> None:
        """Copy a directory to a host."""
        _call(["scp", *_SSH, "-r", str(directory), f"{self.hosts[worker]}:."], timeout_s)


_SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20")


def _call(argv: Sequence[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s,
            check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CallError("TIMEOUT", f"{argv[0]} took longer than {timeout_s:.0f} s") from None
    except OSError as error:
        raise CallError("USAGE", f"cannot start {argv[0]}: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CallError("SSH" if done.returncode == 255 else "UNKNOWN", f"{argv[0]}: {lines[-1]}")
    return done.stdout
