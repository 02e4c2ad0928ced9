import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


def prepare(out, *flags):
    # The pool of workers starts `python` from PATH.
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "pipelines.command", "prepare", "digits", "--out", str(out), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


@contextmanager
def server(log, module, flag, *words):
    """Start a program that listens on a port, and end it by its process id."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words, flag, str(port)], env=environment, stdout=stream, stderr=stream
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


def test_a_worker_of_a_pool_behind_a_job_service_writes_the_same_bytes(digits_dir, tmp_path):
    jobs, pool = tmp_path / "jobs.log", tmp_path / "pool.log"
    with (
        server(jobs, "apache_beam.runners.portability.local_job_service_main", "--port") as job_port,
        server(pool, "apache_beam.runners.worker.worker_pool_main", "--service_port") as pool_port,
    ):
        flags = [f"--job_endpoint=localhost:{job_port}", f"--environment_config=localhost:{pool_port}"]
        prepare(
            tmp_path / "out",
            "--runner=PortableRunner",
            "--environment_type=EXTERNAL",
            *flags,
        )
    assert contents(tmp_path / "out") == contents(digits_dir)
    assert jobs.read_text().count("Requesting worker at") == 1


def test_two_worker_processes_of_a_dask_cluster_write_the_same_bytes(digits_dir, tmp_path):
    dask = ("distributed.cli.dask_scheduler", "distributed.cli.dask_worker")
    with server(tmp_path / "scheduler.log", dask[0], "--port", "--no-dashboard", "--host", "localhost") as port:
        address = f"tcp://localhost:{port}"
        names = ("--no-nanny", "--no-dashboard", "--nthreads", "1", address)
        with (
            server(tmp_path / "first.log", dask[1], "--worker-port", *names),
            server(tmp_path / "second.log", dask[1], "--worker-port", *names),
        ):
            prepare(tmp_path / "out", DASK, f"--dask_client_address={address}", "--dask_npartitions=4")
    assert contents(tmp_path / "out") == contents(digits_dir)
    log = (tmp_path / "scheduler.log").read_text()
    assert log.count("Register worker") == 2
