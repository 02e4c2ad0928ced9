"""`vdm prepare --runner DataflowRunner` against a stub that executes what arrives, from what was staged alone."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.beam_jobs.dataflow_stub import DataflowStub
from tests.beam_jobs.gcs_emulator import Emulator

REPOSITORY = Path(__file__).parents[2]
RUN_SUBMITTED = Path(__file__).with_name("run_submitted_job.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def gcs():
    with serving(Emulator("bucket")) as emulator:
        yield emulator


def service_account(gcs, path):
    """Write a key whose tokens come from the emulator."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fields = {"type": "service_account", "project_id": "test-project", "private_key_id": "k", "client_id": "1",
              "private_key": key.decode(), "client_email": "t@test-project.iam.gserviceaccount.com",
              "token_uri": f"{gcs.url}/token"}  # fmt: skip
    path.write_text(json.dumps(fields))
    return path


def submit(gcs, stub, tmp_path, *flags):
    account = service_account(gcs, tmp_path / "key.json")
    environment = os.environ | gcs.environment() | {"GOOGLE_APPLICATION_CREDENTIALS": str(account)}
    command = [
        *(sys.executable, "-m", "pipelines.command", "prepare", "digits", "--out", "gs://bucket/out"),
        *("--runner", "DataflowRunner", "--project", "test-project", "--region", "us-central1"),
        *("--temp_location", "gs://bucket/tmp", "--staging_location", "gs://bucket/staging"),
        *("--no_auth", "--dataflow_endpoint", stub.url, *flags),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def staged(gcs, ending):
    (data,) = (data for name, data in gcs.store.objects["bucket"].items() if name.endswith(ending))
    return data


def test_the_submitted_job_runs_from_the_staged_pipeline_and_package_alone(gcs, wheel, digits_dir, tmp_path):
    elsewhere = tmp_path / "worker"

    def execute(job):
        (elsewhere / "package").mkdir(parents=True)
        (elsewhere / "pipeline.pb").write_bytes(staged(gcs, "/pipeline.pb"))
        (elsewhere / "package.whl").write_bytes(staged(gcs, f"/{wheel.name}"))
        zipfile.ZipFile(elsewhere / "package.whl").extractall(elsewhere / "package")
        command = [sys.executable, RUN_SUBMITTED, "pipeline.pb", elsewhere / "package", REPOSITORY]
        done = subprocess.run(
            command, cwd=elsewhere, env=os.environ | gcs.environment(), capture_output=True, text=True, check=False
        )
        (elsewhere / "log").write_text(done.stderr)
        return done.returncode == 0

    with serving(DataflowStub(execute)) as stub:
        done = submit(
            *(gcs, stub, tmp_path, "--job_name", "vdm-digits", "--num_workers", "3", "--max_num_workers", "7"),
            *("--machine_type", "n2-standard-4", "--extra_package", str(wheel)),
            *("--sdk_container_image", "gcr.io/test-project/vdm:1"),
        )
    assert (done.returncode, done.stderr) == (0, ""), (elsewhere / "log").read_text()
    job = stub.job
    assert (job["name"], job["projectId"], job["location"]) == ("vdm-digits", "test-project", "us-central1")
    (pool,) = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["numWorkers"]) == ("n2-standard-4", 3)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == "gcr.io/test-project/vdm:1"
    assert wheel.name in {package["name"] for package in pool["packages"]}
    pipeline = staged(gcs, "/pipeline.pb")
    for step in (b"WriteShards/Write", b"Commit/Summarise", b"Commit/WriteManifest"):
        assert step in pipeline
    stored = gcs.store.objects["bucket"]
    for path in Path(digits_dir).iterdir():
        assert stored[f"out/{path.name}"] == path.read_bytes()


def test_no_quota_is_one_line(gcs, tmp_path):
    with serving(DataflowStub(lambda job: True, refuse=True)) as stub:
        done = submit(gcs, stub, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "out of quota" in done.stderr
