"""What flows do away from this machine: trainings by ssh and on slices of the fake TPU API, data by Dataflow."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from flows import run_view
from flows.train import vdm_train
from tests.beam_jobs.dataflow_stub import DataflowStub
from tests.beam_jobs.test_dataflow import executing, service_account, serving
from tests.pipelines.launch.conftest import fake, gcloud_home  # noqa: F401
from tests.pipelines.launch.fake_tpu import FakeTpu
from tests.pipelines.launch.launching import HERE as LAUNCH
from tests.pipelines.launch.launching import needs_gcloud
from tests.pipelines.launch.test_ssh_hosts import HOSTS
from tests.pipelines.launch.test_two_workers_train import _free_port, _rows, _worker_environment
from tests.processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("prefect_server")]
LONG = {"train.steps": 1_000_000, "train.log_every": 1, "train.checkpoint_every": 5}


@pytest.fixture
def shared(tmp_path: Path, digits_dir: str) -> Path:
    """A disk that all machines mount, with the data on it."""
    shutil.copytree(digits_dir, tmp_path / "shared" / "digits")
    return tmp_path / "shared"


def given(shared: Path, **more: Any) -> dict[str, Any]:
    return {"experiment": "debug", "data": str(shared / "digits"), "workdir": str(shared / "run"), **more}


def slice_on(shared: Path) -> dict[str, str]:
    return {"accelerator": "v3-8", "zones": "us-central1-a", "shared_dir": str(shared)}


def test_a_training_by_ssh_on_two_hosts_has_the_numbers_of_one_host(shared, tmp_path, monkeypatch):
    root = tmp_path / "simulated"
    addresses = [host.rpartition("@")[2] for host in HOSTS]
    for address in addresses:
        (root / "hosts" / address).mkdir(parents=True)
    (root / "hosts" / "node.json").write_text(json.dumps({"id": "hosts", "addresses": addresses}))
    monkeypatch.setenv("PATH", f"{LAUNCH / 'shims'}:{os.environ['PATH']}")
    monkeypatch.setenv("SIMULATED_ROOT", str(root))
    caches = {name: value for name, value in os.environ.items() if name.startswith("JAX_") and "CACHE" in name}
    monkeypatch.setenv("SIMULATED_ENVIRONMENT", json.dumps({**caches, "JAX_PLATFORMS": "cpu"}))
    ssh = {"hosts": list(HOSTS), "python": sys.executable, "coordinator": f"127.0.1.1:{_free_port()}"}
    state = vdm_train(**given(shared, launcher="ssh", ssh=ssh), return_state=True)
    assert state.is_completed(), state.message
    assert run_view.checkpoint_steps(str(shared / "run")) == [3, 6]
    here = vdm_train(**given(shared, workdir=str(shared / "here")), return_state=True)
    assert here.is_completed(), here.message
    for ours, theirs in zip(_rows(shared / "run"), _rows(shared / "here"), strict=True):
        # Two processes sum in another order.
        assert ours == pytest.approx(theirs, rel=1e-4)


@needs_gcloud
def test_a_training_on_a_slice_completes_and_nothing_stays_billed(shared, fake: FakeTpu, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SIMULATED_ENVIRONMENT", _one_host())
    state = vdm_train(**given(shared, launcher="tpu", tpu=slice_on(shared)), return_state=True)
    assert state.is_completed(), state.message
    assert run_view.checkpoint_steps(str(shared / "run")) == [3, 6]
    assert len(fake.created) == 1
    assert fake.node_names() == []


@needs_gcloud
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_flow_that_is_cancelled_or_killed_gives_its_slice_back(shared, fake: FakeTpu, monkeypatch, how):  # noqa: F811
    """A worker cancels with SIGTERM to the flow's process; after SIGKILL the kernel tells the job."""
    monkeypatch.setenv("SIMULATED_ENVIRONMENT", _one_host())
    parameters = given(shared, launcher="tpu", tpu=slice_on(shared), overrides=LONG)
    with get_client(sync_client=True) as client:
        monkeypatch.setenv("PREFECT_API_URL", str(client.api_url))
    code = f"from flows.train import vdm_train\nvdm_train(**{parameters!r})"
    log = shared / "flow.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(lambda: run_view.checkpoint_steps(str(shared / "run")), f"a checkpoint (see {log})", 300.0)
        (name,) = fake.node_names()
        process.send_signal(how)
        process.wait(120)
        wait_for(lambda: not fake.node_names(), f"the deletion of {name}", 180.0)
    finally:
        process.kill()
        process.wait()
    # The program had the time to save its last step.
    rows = _rows(shared / "run")
    assert run_view.checkpoint_steps(str(shared / "run"))[-1] == rows[-1]["step"]


def test_data_by_dataflow_are_made_once(gcs, tmp_path):
    account = service_account(gcs, tmp_path / "key.json")
    with get_client(sync_client=True) as client:
        address = {"PREFECT_API_URL": str(client.api_url), "GOOGLE_APPLICATION_CREDENTIALS": str(account)}
    with serving(DataflowStub(executing(gcs, tmp_path / "worker"))) as stub:
        options = [
            "--project=test-project", "--region=us-central1", "--temp_location=gs://bucket/tmp", "--no_auth",
            f"--dataflow_endpoint={stub.url}", "--job_name=vdm-digits",
        ]  # fmt: skip
        parameters = {"out": "gs://bucket/out", "limit": 8, "runner": "DataflowRunner", "beam_options": options}
        # A process of its own: gcsfs keeps its connections for the life of one.
        code = (
            "from flows.preprocess import vdm_preprocess\n"
            f"print(*(vdm_preprocess(return_state=True, **{parameters!r}).name for _ in range(2)))"
        )
        environment = os.environ | gcs.environment() | address
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.stdout.split() == ["Completed", "Skipped"], done.stderr
    assert stub.job["name"] == "vdm-digits"
    written = {name for name in gcs.store.objects["bucket"] if name.startswith("out/")}
    assert {"out/manifest.json", "out/flow-options.json"} <= written


def _one_host() -> str:
    """One worker needs no other; it trains as on this machine."""
    left_out = ("MEGASCALE", "FORCE")
    values = json.loads(_worker_environment())
    return json.dumps({name: value for name, value in values.items() if not any(word in name for word in left_out)})
