"""What can go wrong with machines, connections and people while a launch runs: through the real gcloud CLI."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.launch.crew import Crew
from pipelines.launch.errors import LaunchError
from pipelines.launch.remote import GcloudRemote
from tests.pipelines.launch.fake_tpu import FakeTpu
from tests.pipelines.launch.launching import Launch, later, needs_gcloud
from tests.processes import wait_for

pytestmark = [needs_gcloud, pytest.mark.slow, pytest.mark.timeout(900)]


def _go(launch: Launch) -> None:
    (launch.directory / "go").touch()


def test_a_killed_worker_is_started_again_in_place(launch: Launch):
    def kill_worker_1() -> None:
        os.kill(int((launch.directory / "starts.1").read_text()), signal.SIGKILL)
        _go(launch)

    pod = launch.pod()
    code = pod.run(launch.job(40, "wait"), launch.when("step 20", kill_worker_1))
    assert code == 0, launch.said
    assert (pod.counts.slices, pod.counts.restarts) == (1, 1)
    assert len(launch.api.created) == 1
    assert launch.starts(1) == 2
    assert any("worker 1: exited with exit code 137" in line for line in launch.said)


def test_a_lost_attempt_may_hold_the_run_directory_for_a_while(launch: Launch):
    """The restart finds it held and fails; that is waited for, and is no failure of the program."""

    def kill_all() -> None:
        for worker in (0, 1):
            os.kill(int((launch.directory / f"starts.{worker}").read_text()), signal.SIGKILL)
        _go(launch)

    pod = launch.pod()
    code = pod.run(launch.job(40, "wait", "lease"), launch.when("step 20", kill_all))
    assert code == 0, launch.said
    assert (pod.counts.restarts, pod.counts.failures, launch.starts(0)) == (1, 0, 3)
    assert any("may still hold the run directory" in line for line in launch.said)


def test_connections_that_break_start_the_program_once(launch: Launch):
    """gcloud repeats a command whose ssh ended with 255; the first of them had started the program."""
    storm = launch.api.root / "after.127.0.1.2"
    storm.write_text("2")
    code = launch.pod().run(launch.job(20), launch.lines.append)
    assert code == 0, launch.said
    assert storm.read_text() == "0"
    assert (launch.starts(0), launch.starts(1)) == (1, 1)


def test_a_describe_that_fails_does_not_mean_absent(launch: Launch):
    def break_describe() -> None:
        # gcloud tries for half a minute by itself; then the launcher must go on.
        launch.api.fail("GET", "nodes/vdm-test$", status=503, times=6)
        later(lambda: any("says nothing" in line for line in launch.said), lambda: _go(launch))

    pod = launch.pod()
    code = pod.run(launch.job(20, "wait"), launch.when("step 10", break_describe))
    assert code == 0, launch.said
    assert any("says nothing" in line for line in launch.said)
    assert (pod.counts.slices, launch.starts(0)) == (1, 1)


def test_gcloud_killed_while_it_creates(launch: Launch):
    """The request had arrived: the node is found and used, not left and not made twice."""
    launch.api.waits = 10_000
    pod = launch.pod()

    def kill_gcloud() -> None:
        pod.gcloud.stop()
        launch.api.waits = 1

    thread = later(lambda: launch.api.created, kill_gcloud)
    code = pod.run(launch.job(10), launch.lines.append)
    thread.join()
    assert code == 0, launch.said
    assert len(launch.api.created) == 1
    assert launch.api.node_names() == []


def test_an_interrupt_saves_the_state_and_deletes_the_slice(launch: Launch):
    main = threading.main_thread().ident
    assert main is not None
    take = launch.when("step 20", lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        launch.pod().run(launch.job(40, "wait"), take)
    assert (launch.directory / "step").read_text() == "20"
    assert launch.api.node_names() == []


def test_a_launcher_that_died_is_followed_by_one_that_watches_what_it_started(launch: Launch):
    """The first launcher ends without cleaning up, as by SIGKILL; the program goes on, and is not started twice."""

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    first = launch.pod(keep=True)
    with pytest.raises(Killed):
        first.run(launch.job(40, "wait"), launch.when("step 20", die))
    assert launch.api.node_names() == ["vdm-test"]
    second = launch.pod()
    later(lambda: any("watching it" in line for line in launch.said), lambda: _go(launch))
    assert second.run(launch.job(40, "wait"), launch.lines.append) == 0, launch.said
    assert (launch.starts(0), launch.starts(1)) == (1, 1)
    assert launch.api.node_names() == []


def test_a_run_that_does_something_else_is_left_running(launch: Launch):
    first = launch.pod(keep=True)
    first.lease.acquire()
    remote = GcloudRemote(first.gcloud, "vdm-test", first.lease.api.place("us-central1-a"), 2)
    crew = Crew(remote, first.lease.request.run_id, launch.package.name)
    crew.install(launch.package, launch.said.append)
    crew.start(launch.job(40, "wait"), 1)
    with pytest.raises(LaunchError, match="runs another command"):
        launch.pod().run(launch.job(80, "wait"), launch.lines.append)
    assert {state.state for state in crew.look()} == {"running"}
    assert launch.api.node_names() == ["vdm-test"]


def test_ctrl_c_while_it_creates_leaves_nothing(fake: FakeTpu, tmp_path: Path):
    """The command as a process of its own; the node is being made when the signal comes."""
    fake.waits = 10_000
    shared = str(tmp_path / "shared")
    words = [
        "tpu", "run", "debug", "--data", f"{shared}/digits", "--workdir", f"{shared}/run", "--shared-dir", shared,
        "--accelerator", "v4-16", "--zones", "us-central1-a", "--direct", "--poll", "0.2",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.command", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: fake.created, "the node")
    fake.waits = 1
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert stderr.rstrip().endswith("vdm tpu: interrupted")
    assert "Traceback" not in stderr
    assert fake.node_names() == []


def test_a_program_that_fails_is_tried_once_more_and_its_last_lines_are_shown(launch: Launch):
    code = launch.pod().run(launch.job(3, "fail"), launch.lines.append)
    assert code == 3
    assert launch.starts(0) == 2
    assert any("| stand-in: this cannot work" in line for line in launch.said)
    assert launch.api.node_names() == []


def test_wrong_usage_is_not_tried_again(launch: Launch):
    assert launch.pod().run(launch.job(3, "usage"), launch.lines.append) == 2
    assert launch.starts(0) == 1


def test_the_limit_of_hours_stops_the_program_with_its_state(launch: Launch):
    pod = launch.pod()
    code = pod.run(launch.job(40, "wait"), launch.when("step 20", lambda: pod.lease.budget.end_by(0.0)))
    assert code == 75, launch.said
    assert launch.lines[-1] == "stopped at step 20"
    assert launch.api.node_names() == []


def test_a_slice_that_somebody_deletes_is_not_made_again(launch: Launch):
    def delete() -> None:
        launch.api.remove("vdm-test")

    with pytest.raises(LaunchError, match="deleted by somebody else"):
        launch.pod().run(launch.job(40, "wait"), launch.when("step 20", delete))
    assert len(launch.api.created) == 1


def test_a_shutdown_with_warning_ends_with_the_state_saved(launch: Launch):
    """Every process of the machine gets SIGTERM, the supervisor too; the program must get it once."""

    def preempt() -> None:
        launch.api.preempt("vdm-test", warn=True)
        _go(launch)

    code = launch.pod().run(launch.job(40, "wait"), launch.when("step 20", preempt))
    assert code == 0, launch.said
    assert "from step 20" in launch.lines
    wait_for(lambda: not launch.api.node_names(), "the deletion")


def test_a_slice_that_cannot_be_deleted_is_named_with_the_commands_that_do_it(launch: Launch):
    """Without the right to delete, at once."""
    launch.api.fail("DELETE", "nodes/vdm-test$", status=403, times=100)
    with pytest.raises(LaunchError) as caught:
        launch.pod().run(launch.job(3), launch.lines.append)
    message = str(caught.value)
    assert "may still cost money" in message
    assert "gcloud compute tpus tpu-vm delete vdm-test --project=fake-project --zone=us-central1-a --quiet" in message
    assert launch.api.node_names() == ["vdm-test"]


def test_a_deletion_that_keeps_failing_is_tried_until_its_time_is_over(launch: Launch, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.launch.tpu_api._DELETE_S", 60.0)
    launch.api.fail("DELETE", "nodes/vdm-test$", status=409, times=3)
    assert launch.pod().run(launch.job(3), launch.lines.append) == 0, launch.said
    assert launch.api.node_names() == []


def test_workers_that_answer_nobody_are_given_up_and_the_run_goes_on_on_others(launch: Launch):
    storms = [launch.api.root / f"storm.127.0.1.{host}" for host in (1, 2)]

    def silence() -> None:
        for storm in storms:
            storm.write_text("1000000")
        later(lambda: len(launch.api.created) == 2, answer_again)

    def answer_again() -> None:
        _go(launch)
        for storm in storms:
            storm.write_text("0")

    pod = launch.pod()
    pod.patience = dataclasses.replace(pod.patience, unreachable_s=2.0)
    code = pod.run(launch.job(40, "wait"), launch.when("step 20", silence))
    assert code == 0, launch.said
    assert pod.counts.slices == 2
    assert launch.lines[-1] == "done"
    assert launch.api.node_names() == []
