"""How the tests launch: a TPU pod of two simulated workers that runs the stand-in program."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.launch.budget import Budget
from pipelines.launch.gcloud import Gcloud
from pipelines.launch.job import Job
from pipelines.launch.tpu_api import TpuApi
from pipelines.launch.tpu_lease import TpuLease
from pipelines.launch.tpu_pod import TpuPod
from pipelines.launch.tpu_request import TpuRequest
from pipelines.launch.watch import Patience
from tests.pipelines.launch.fake_tpu import PROJECT, FakeTpu
from tests.processes import wait_for

HERE = Path(__file__).parent
needs_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not on PATH: these need the CLI")


def later(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Do something in a thread as soon as a condition holds."""

    def wait() -> None:
        wait_for(condition, "what the test waits for", 600.0)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@dataclass
class Launch:
    """A launch of the stand-in program on two workers, and what it said."""

    api: FakeTpu
    directory: Path
    package: Path
    said: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def pod(self, *, max_hours: float = 1.0, workdir: str = "", keep: bool = False, **request: object) -> TpuPod:
        values = {
            "name": "vdm-test", "accelerator": "v4-16", "zones": ("us-central1-a",), "queued": False,
            "workdir": workdir or str(self.directory), "shared_dir": str(self.directory.parent),
        } | request  # fmt: skip
        gcloud = Gcloud()
        api = TpuApi(gcloud, PROJECT, self.said.append, poll_s=0.2)
        lease = TpuLease(api, TpuRequest(**values), Budget(max_hours))
        patience = Patience(poll_s=0.2, grace_s=20, settle_s=3, unreachable_s=120, lease_s=1)
        return TpuPod(lease, gcloud, self.package, self.said.append, patience, keep=keep)

    def job(self, last: int, *how: str) -> Job:
        return Job(("/usr/bin/env", "python3", str(HERE / "stand_in.py"), str(self.directory), str(last), *how))

    def starts(self, worker: int = 0) -> int:
        """How often the program began on a worker."""
        file = self.directory / f"starts.{worker}"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def when(self, text: str, action: Callable[[], None]) -> Callable[[str], None]:
        """Return a taker of lines that acts once, at the first line with a text in it."""
        done: list[int] = []

        def take(line: str) -> None:
            self.lines.append(line)
            if text in line and not done:
                done.append(1)
                action()

        return take
