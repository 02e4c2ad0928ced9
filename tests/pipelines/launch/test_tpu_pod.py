"""Launches of a stand-in program through the real gcloud CLI, on simulated workers of the fake API."""

import pytest

from pipelines.launch.errors import LaunchError
from tests.pipelines.launch.fake_tpu import QUOTA, STOCKOUT
from tests.pipelines.launch.launching import Launch, needs_gcloud

pytestmark = [needs_gcloud]


def test_a_launch_runs_on_every_worker_and_leaves_nothing(launch: Launch):
    code = launch.pod().run(launch.job(30), launch.lines.append)
    assert code == 0, launch.said
    assert launch.lines == ["from step 0", *(f"step {n}" for n in range(1, 31)), "done"]
    assert (launch.starts(0), launch.starts(1)) == (1, 1)
    assert launch.api.node_names() == []


@pytest.mark.slow  # many calls of the real gcloud
def test_no_capacity_in_the_first_zone_then_a_preemption_in_the_second(launch: Launch):
    """The queued resource fails in one zone, is active in the next, is suspended, and the run goes on where it was."""
    launch.api.fail("POST", "us-central1-a/queuedResources$", operation=STOCKOUT)
    pod = launch.pod(queued=True, provisioning="spot", zones=("us-central1-a", "europe-west4-a"))

    def preempt() -> None:
        launch.api.preempt("vdm-test")
        (launch.directory / "go").touch()

    code = pod.run(launch.job(40, "wait"), launch.when("step 20", preempt))
    assert code == 0, launch.said
    assert pod.counts.slices == 2
    assert launch.lines[-1] == "done"
    resumed = [line for line in launch.lines if line.startswith("from step")]
    assert resumed == ["from step 0", "from step 20"]
    assert [name.split("/")[3] for name in launch.api.created] == ["europe-west4-a", "us-central1-a"]
    assert launch.api.node_names() == []
    assert launch.api.queued == {}
    assert any("no capacity in us-central1-a" in line for line in launch.said)


def test_a_full_quota_fails_at_once_and_is_named(launch: Launch):
    launch.api.fail("POST", "nodes$", operation=QUOTA, times=9)
    with pytest.raises(LaunchError, match="TPUV5sLitepodPerProject"):
        launch.pod(zones=("us-central1-a", "europe-west4-a")).run(launch.job(3), launch.lines.append)
    assert sum(method == "POST" for method, _, _ in launch.api.requests) == 1
    assert launch.starts() == 0


def test_a_name_that_another_run_has_is_left_alone(launch: Launch):
    other = {"acceleratorType": "v4-16", "labels": {"vdm-run": "000000000000"}}
    launch.api.make_ready_node("us-central1-a", "vdm-test", other)
    with pytest.raises(LaunchError, match="taken in us-central1-a by another run"):
        launch.pod().run(launch.job(3), launch.lines.append)
    assert launch.api.node_names() == ["vdm-test"]
    assert {method for method, _, _ in launch.api.requests} == {"GET"}
