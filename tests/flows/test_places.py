"""What is left running elsewhere is found again by the flow run and given back."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flows.places import SshPlace, TpuSlice, give_back, stop_leftovers, training
from pipelines.launch.local import KEY_VARIABLE, LocalProcess, stop_marked
from pipelines.launch.ssh_hosts import SshHosts
from pipelines.launch.tpu_request import RUN_LABEL
from tests.flows.test_local import HOLDS_OUT, SAVES_AND_STOPS
from tests.pipelines.launch.conftest import fake, gcloud_home, launch  # noqa: F401
from tests.pipelines.launch.launching import needs_gcloud
from tests.processes import is_alive

# A job that needs its own child to end in good order: it waits for it when it is asked to stop.
WITH_CHILD = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(1.5)"],
                         start_new_session=True)
def stop(*_):
    sys.exit(child.wait())
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def start(code: str, key: str) -> subprocess.Popen[str]:
    environment = {KEY_VARIABLE: key, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        pass
    return process


def test_a_job_ends_its_own_children():
    with start(WITH_CHILD, "with-child") as job:
        assert len(stop_marked("with-child", grace_s=20)) == 2
        # 0: the child ended by itself, not by a signal.
        assert job.wait(20) == 0


def test_the_hook_ends_the_job_of_its_run_and_no_other(monkeypatch):
    monkeypatch.setattr("flows.places.SAVING_S", 0.5)
    with start(HOLDS_OUT, "run-1") as mine, start(SAVES_AND_STOPS, "run-2") as other:
        run = SimpleNamespace(id="run-1", parameters={"experiment": "debug"})
        stop_leftovers(None, run, None)
        stop_leftovers(None, run, None)
        mine.wait(20)
        assert is_alive(other.pid)
        other.terminate()


def test_each_launcher_gets_its_job():
    words = ["debug", "--data", "d", "--workdir", "w"]
    job, where, final = training("local", None, None, words, "w", print)
    assert (job.argv[3:], type(where), final) == (("train", *words, "--json"), LocalProcess, False)
    ssh = SshPlace(hosts=["me@gpu-1"], python="/opt/bin/python")
    job, where, final = training("ssh", None, ssh, words, "w", print)
    assert isinstance(where, SshHosts) and where.hosts == ("me@gpu-1",) and not final
    tpu = TpuSlice(accelerator="v3-8", zones="us-central1-a", spot=True, max_hours=3)
    job, where, final = training("tpu", tpu, None, words, "w", print)
    assert job.argv[3:5] == ("tpu", "run") and "--max-hours=3" in job.argv and "--spot" in job.argv
    # Its limits are its own: a stop is not started again.
    assert final


@pytest.mark.slow  # calls gcloud many times
@needs_gcloud
@pytest.mark.timeout(900)
def test_a_slice_that_a_run_has_left_is_deleted_and_no_other(launch):  # noqa: F811
    workdir = "gs://bucket/run"
    tpu = TpuSlice(accelerator="v4-16", zones="us-central1-a")
    name = f"vdm-{tpu.request(workdir).run_id}"
    for each, run in ((name, tpu.request(workdir).run_id), ("vdm-other", "0123456789ab")):
        body = {"acceleratorType": "v4-16", "labels": {RUN_LABEL: run}}
        launch.api.make_ready_node("us-central1-a", each, body)
    give_back(tpu, workdir, logging.getLogger("test"))
    assert launch.api.node_names() == ["vdm-other"]
    # Done twice it does no harm.
    give_back(tpu, workdir, logging.getLogger("test"))
    assert launch.api.node_names() == ["vdm-other"]
