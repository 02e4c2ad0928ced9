"""`vdm prepare --runner DataflowRunner` against a stub that executes what arrives, from what was staged alone."""

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from beam_jobs.prepare import prepare
from beam_jobs.sources import open_source
from tests.beam_jobs.announcement import without_announcement
from tests.beam_jobs.dataflow_stub import DataflowStub
from tests.beam_jobs.gcs_emulator import Emulator
from vdm_lib.errors import DataError

REPOSITORY = Path(__file__).parents[2]
RUN_SUBMITTED = Path(__file__).with_name("run_submitted_job.py")


RECORD_BYTES = 3073
FILE_BYTES = 10_000 * RECORD_BYTES


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """Lay out CIFAR-10's files in their official size, 40 images of each split in them; return the folder."""
    folder = tmp_path_factory.mktemp("cifar10") / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        with (folder / f"{name}.bin").open("wb") as stream:
            stream.truncate(FILE_BYTES)
            if name in ("data_batch_1", "test_batch"):
                records = np.random.default_rng(number).integers(0, 256, (40, RECORD_BYTES), np.uint8)
                records[:, 0] %= 10
                stream.write(records.tobytes())
    return folder


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


def submit(gcs, stub, tmp_path, *words):
    account = service_account(gcs, tmp_path / "key.json")
    environment = os.environ | gcs.environment() | {"GOOGLE_APPLICATION_CREDENTIALS": str(account)}
    command = [
        *(sys.executable, "-m", "pipelines.command", "prepare", *words, "--out", "gs://bucket/out"),
        *("--runner", "DataflowRunner", "--project", "test-project", "--region", "us-central1"),
        *("--temp_location", "gs://bucket/tmp", "--no_auth", "--dataflow_endpoint", stub.url),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def staged(gcs, ending):
    (data,) = (data for name, data in gcs.store.objects["bucket"].items() if name.endswith(ending))
    return data


def executing(gcs, elsewhere):
    """Return what runs a job as a worker does, in a directory with nothing but what was staged, and keeps its log."""

    def execute(job):
        (elsewhere / "package").mkdir(parents=True)
        (elsewhere / "pipeline.pb").write_bytes(staged(gcs, "/pipeline.pb"))
        zipfile.ZipFile(io.BytesIO(staged(gcs, ".whl"))).extractall(elsewhere / "package")
        command = [sys.executable, RUN_SUBMITTED, "pipeline.pb", elsewhere / "package", REPOSITORY]
        environment = os.environ | gcs.environment()
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        (elsewhere / "log").write_text(done.stderr)
        return done.returncode == 0

    return execute


@pytest.mark.slow  # builds the package and runs the job
def test_the_submitted_job_runs_from_the_staged_pipeline_and_package_alone(gcs, cifar10, tmp_path):
    elsewhere = tmp_path / "worker"
    for path in cifar10.iterdir():
        gcs.store.put("bucket", f"source/{path.name}", path.read_bytes())

    with serving(DataflowStub(executing(gcs, elsewhere))) as stub:
        done = submit(
            *(gcs, stub, tmp_path, "cifar10", "--source", "gs://bucket/source", "--limit", "40"),
            *("--job_name", "vdm-cifar10", "--num_workers", "3", "--max_num_workers", "7"),
            *("--machine_type", "n2-standard-4"),
        )
    assert (done.returncode, without_announcement(done.stderr)) == (0, ""), (elsewhere / "log").read_text()
    job = stub.job
    assert (job["name"], job["projectId"], job["location"]) == ("vdm-cifar10", "test-project", "us-central1")
    (pool,) = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["numWorkers"]) == ("n2-standard-4", 3)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert "beam_python3" in pool["sdkHarnessContainerImages"][0]["containerImage"]
    version = importlib.metadata.version("vdm-pipeline")
    assert f"vdm_pipeline-{version}-py3-none-any.whl" in {package["name"] for package in pool["packages"]}
    pipeline = staged(gcs, "/pipeline.pb")
    for step in (b"WriteShards/Write", b"Commit/Summarise", b"Commit/WriteManifest"):
        assert step in pipeline
    prepare(open_source("cifar10", str(cifar10)), tmp_path / "here", limit=40)
    stored = gcs.store.objects["bucket"]
    for path in (tmp_path / "here").iterdir():
        assert stored.pop(f"out/{path.name}") == path.read_bytes()
    assert not [name for name in stored if name.startswith("out/")]


def test_no_quota_is_one_line_and_a_container_brings_the_project_itself(gcs, tmp_path):
    with serving(DataflowStub(lambda job: True, refuse=True)) as stub:
        done = submit(gcs, stub, tmp_path, "digits", "--sdk_container_image", "gcr.io/test-project/vdm:1")
    assert (done.returncode, without_announcement(done.stderr).count("\n")) == (1, 1), done.stderr
    assert "out of quota" in done.stderr
    assert not [name for name in gcs.store.objects["bucket"] if name.startswith("out/")]
    (pool,) = stub.job["environment"]["workerPools"]
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == "gcr.io/test-project/vdm:1"
    assert not [package for package in pool.get("packages", []) if package["name"].endswith(".whl")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--temp_location=gs://bucket/tmp",), r"no valid credentials for Google Cloud .*: log in with `gcloud auth"),
        (("--temp_location=/tmp/x",), r"cannot reach --temp_location /tmp/x: give a place in a bucket"),
        (("--temp_location=gs://bucket/tmp", "--staging_location=stage"), r"cannot reach --staging_location stage"),
    ],
)
def test_what_is_refused_before_anything_is_submitted(monkeypatch, tmp_path, flags, message):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", os.fspath(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    job = ("--runner=DataflowRunner", "--project=test-project", "--region=us-central1")
    with pytest.raises(DataError, match=message) as error:
        prepare(open_source("digits"), tmp_path / "out", pipeline_options=[*job, *flags])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
