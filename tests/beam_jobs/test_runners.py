import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.beam_jobs.announcement import without_announcement

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


def environment():
    # The pool of workers starts `python` from PATH; the sources of the tests are no installed package.
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}


def run(*words):
    done = subprocess.run(
        [sys.executable, *words], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


@contextmanager
def server(log, module, flag, *words):
    """Start a program that listens on a port, and end it by its process id."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words, flag, str(port)], env=environment(), stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    log = tmp_path_factory.mktemp("pool") / "log"
    with server(log, "apache_beam.runners.worker.worker_pool_main", "--service_port") as port:
        yield f"localhost:{port}"


def readers(folder):
    """Return how many processes read something, and all that was read."""
    notes = [path.read_text().splitlines() for path in folder.iterdir()]
    return len(notes), sorted(line for lines in notes for line in lines)


@pytest.mark.slow  # real servers
def test_a_worker_of_a_pool_behind_a_job_service_writes_the_same_bytes(pool, digits_dir, tmp_path):
    jobs = tmp_path / "jobs.log"
    with server(jobs, "apache_beam.runners.portability.local_job_service_main", "--port") as port:
        flags = ("--environment_type=EXTERNAL", f"--job_endpoint=localhost:{port}", f"--environment_config={pool}")
        command = ("-m", "pipelines.command", "prepare", "digits", "--out", str(tmp_path / "out"))
        assert without_announcement(run(*command, "--runner=PortableRunner", *flags).stderr) == ""
    assert contents(tmp_path / "out") == contents(digits_dir)
    assert jobs.read_text().count("Requesting worker at") == 1


@pytest.mark.slow  # real servers
def test_two_worker_processes_of_a_pool_share_the_shards(pool, digits_dir, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    run("-m", "tests.beam_jobs.noted", str(notes), str(tmp_path / "out"), "--pool", pool)
    assert contents(tmp_path / "out") == contents(digits_dir)
    assert readers(notes) == (2, ["test 0", "test 179", "train 0", "train 719"])


@pytest.mark.slow  # real servers
def test_two_worker_processes_of_a_dask_cluster_share_the_shards(digits_dir, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    dask = ("distributed.cli.dask_scheduler", "distributed.cli.dask_worker")
    with server(tmp_path / "scheduler.log", dask[0], "--port", "--no-dashboard", "--host", "localhost") as port:
        address = f"tcp://localhost:{port}"
        names = ("--no-nanny", "--no-dashboard", "--nthreads", "1", address)
        with (
            server(tmp_path / "first.log", dask[1], "--worker-port", *names),
            server(tmp_path / "second.log", dask[1], "--worker-port", *names),
        ):
            flags = (DASK, f"--dask_client_address={address}", "--dask_npartitions=4")
            run("-m", "tests.beam_jobs.noted", str(notes), str(tmp_path / "out"), *flags)
    assert contents(tmp_path / "out") == contents(digits_dir)
    assert readers(notes) == (2, ["test 0", "test 179", "train 0", "train 719"])
