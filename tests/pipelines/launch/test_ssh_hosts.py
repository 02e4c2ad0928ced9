"""Hosts of one's own: the same behaviour by plain ssh, on simulated hosts."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from pipelines.launch.errors import LaunchError
from pipelines.launch.job import Job
from pipelines.launch.ssh_hosts import SshHosts
from pipelines.launch.watch import Patience
from tests.pipelines.launch.launching import HERE

HOSTS = ("me@127.0.1.1", "127.0.1.2")


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two hosts, a launcher for them, and what it said."""
    root = tmp_path / "simulated"
    addresses = [host.rpartition("@")[2] for host in HOSTS]
    for address in addresses:
        (root / "hosts" / address).mkdir(parents=True)
    (root / "hosts" / "node.json").write_text(json.dumps({"id": "hosts", "addresses": addresses}))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("PATH", f"{HERE / 'shims'}:{os.environ['PATH']}")
    monkeypatch.setenv("SIMULATED_ROOT", str(root))
    said: list[str] = []
    patience = Patience(poll_s=0.1, grace_s=20, settle_s=3, unreachable_s=3)
    return SshHosts(HOSTS, sys.executable, say=said.append, patience=patience), tmp_path / "run", said


def _job(run: Path, last: int, *how: str) -> Job:
    return Job((sys.executable, str(HERE / "stand_in.py"), str(run), str(last), *how), workdir=str(run))


def test_a_job_runs_on_every_host_and_each_is_told_where_they_meet(hosts):
    launcher, run, said = hosts
    lines: list[str] = []
    assert launcher.run(_job(run, 20), lines.append) == 0, said
    assert lines[-1] == "done"
    commands = [
        json.loads(file.read_text()) for file in sorted(run.parent.glob("simulated/hosts/*/.vdm-runs/*/1/c*.json"))
    ]
    assert [command["argv"][-6:] for command in commands] == [
        ["--coordinator", "127.0.1.1:8476", "--num-processes", "2", "--process-id", str(number)] for number in (0, 1)
    ]


def test_a_lost_worker_is_started_again(hosts):
    launcher, run, said = hosts

    def kill(line: str) -> None:
        if line == "step 10" and not (run / "go").exists():
            os.kill(int((run / "starts.1").read_text()), signal.SIGKILL)
            (run / "go").touch()

    assert launcher.run(_job(run, 20, "wait"), kill) == 0, said
    assert len((run / "starts.1").read_text().splitlines()) == 2


def test_a_failure_shows_the_last_lines_and_a_stop_saves(hosts):
    launcher, run, said = hosts
    assert launcher.run(_job(run, 20, "fail"), lambda _: None) == 3
    assert any(" | stand-in: this cannot work" in line for line in said)

    def interrupt(line: str) -> None:
        if line == "step 10":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.run(_job(run, 20, "wait"), interrupt)
    assert {state.exit_code for state in launcher.workers} == {75}


def test_what_a_dead_launcher_has_left_running_is_ended_before_the_next_start(hosts):
    launcher, run, said = hosts

    class Died(BaseException):
        """In place of SIGKILL: the launcher cannot stop what it started."""

    def die(line: str) -> None:
        if line == "step 10":
            raise Died

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Died):
        patch.setattr("pipelines.launch.crew.Crew.stop", lambda *_: [])
        launcher.run(_job(run, 20, "wait"), die)
    lines: list[str] = []
    assert launcher.run(_job(run, 20), lines.append) == 0, said
    assert lines[0] == "from step 10"
    # Nothing is left to stop, and asking for it twice does no harm.
    assert {state.state for state in launcher.stop(str(run))} == {"exited"}


def test_a_host_that_is_not_there_is_told(hosts):
    launcher, run, _ = hosts
    launcher.hosts = (*HOSTS, "127.0.1.9")
    with pytest.raises(LaunchError, match="Connection timed out"):
        launcher.run(_job(run, 20), lambda _: None)
