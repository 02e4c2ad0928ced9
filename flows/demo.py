"""`make demo-flows`: the demo through Prefect, with a server and a worker on this machine, all below demo-flows/.

    python -m flows.demo start [--port 4200]
    python -m flows.demo stop

`start` leaves the server and the worker running, so that the run can be looked at.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import httpx

from flows.watch import watch
from vdm_lib.errors import VdmError

ROOT = Path("demo-flows")
_PIDS = "pids.json"
_START_S = 300.0
# A job that compiles sees the request to stop after that.
_STOP_S = 120.0
# For the last reports of flows without a job; a worker that is asked may stay, and a server may be gone.
_REPORT_S = 10.0
_QUIET_S = 3.0
# In command lines: the process of a flow, and that of a job.
_ENGINE, _JOB = b"prefect.engine", b"pipelines.command"
# Python warns of a child that is forgotten while it runs.
_started: list[subprocess.Popen[bytes]] = []


def main() -> None:
    """Start or stop; errors are one line."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--port", type=int, default=4200, help="of the server, on loopback (default 4200)")
    args = parser.parse_args()
    try:
        if args.action == "start":
            start(ROOT, args.port)
        else:
            print("server and worker have ended" if stop(ROOT) else "no server and no worker is running")
    except VdmError as error:
        sys.exit(f"demo-flows: {error}")
    except httpx.HTTPError as error:
        sys.exit(
            f"demo-flows: the server does not answer any more ({type(error).__name__}): see "
            f"{ROOT}/server.log; `make demo-flows` begins anew"
        )
    except KeyboardInterrupt:
        print("\ndemo-flows: server, worker and run go on: `make demo-flows-stop` ends them", file=sys.stderr)
        sys.exit(130)


def start(root: Path, port: int) -> None:
    """Start everything, run the pipeline on the digits, and print where to look.

    Raises:
      VdmError: the port is in use, the server does not start, or the run failed.
    """
    if stop(root):
        print("the server and the worker of the demo before have ended", flush=True)
    # Before anything is deleted.
    refuse_port_in_use(port)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    url = f"http://127.0.0.1:{port}"
    environment = start_server(root, port)
    print(f"server {url}, its database and logs in {root}/", flush=True)
    _run(root, environment, sys.executable, "-m", "flows.deploy")
    start_worker(root, environment)
    place = root.absolute()
    parameters = {
        "experiment": "digits", "data": str(place / "data"), "workdir": str(place / "runs" / "digits"),
        "registry": str(place / "registry"),
    }  # fmt: skip
    words = ["deployment", "run", "vdm-pipeline/vdm-pipeline", "--params", json.dumps(parameters)]
    print(f"$ prefect {shlex.join(words)}\nSee it at {url}/v2/runs; it takes 5 to 10 minutes.", flush=True)
    state = watch(f"{url}/api", _start_run(environment, words), lambda line: print(line, flush=True))
    done = state == "COMPLETED"
    how = "is done" if done else f"ended as {state}"
    print(f"\nThe run {how}: {url}/v2/runs, artifacts at {url}/v2/artifacts. `make demo-flows-stop` ends the server.")
    if not done:
        raise VdmError(f"the run did not complete; the worker's log is {root}/worker.log")


def _start_run(environment: dict[str, str], words: list[str]) -> str:
    command = [sys.executable, "-m", "prefect", *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    found = re.search(r"UUID: (\S+)", done.stdout)
    if done.returncode or found is None:
        raise VdmError(f"the run was not created: {done.stdout.strip()}")
    return found[1]


def refuse_port_in_use(port: int) -> None:
    """Raise VdmError if another program listens on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise VdmError(
                f"port {port} of this machine is in use: give another --port (make demo-flows PORT=4300)"
            ) from None


def start_server(root: Path, port: int) -> dict[str, str]:
    """Start a server with its database below root, and return the environment of its clients.

    Raises:
      VdmError: the port is in use, or the server does not answer in time.
    """
    refuse_port_in_use(port)
    environment = {
        **os.environ,
        "PREFECT_HOME": str((root / "prefect").absolute()),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A worker looks this often for runs.
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "PREFECT_PLUGINS_ENABLED": "0",
    }
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = _start(root, "server", environment, words)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise VdmError(f"the server ended at once: see {root}/server.log")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).status_code == 200:
                return environment
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise VdmError(f"the server did not answer within {_START_S:.0f} s: see {root}/server.log")


def start_worker(root: Path, environment: dict[str, str]) -> None:
    """Start a worker of the pool `vdm`."""
    _start(root, "worker", environment, ["worker", "start", "--pool", "vdm", "--type", "process"])


def stop(root: Path) -> bool:
    """End the server and the worker that `start` left, once their jobs have saved; say whether there was anything."""
    path = root / _PIDS
    if not path.exists():
        return False
    known = {name: pid for name, pid in json.loads(path.read_text()).items() if _is_ours(pid)}
    server = known.pop("server", None)
    # A worker that is asked takes no new runs, and waits for those that it has: these are asked themselves.
    flows = [pid for pid in _processes_of(root) if _ENGINE in _command_line(pid)]
    _ask(signal.SIGTERM, [*known.values(), *flows])
    _wait(root, but={server})
    _ask(signal.SIGKILL, [pid for pid in _processes_of(root) if pid != server])
    if server is not None:
        # The last, as the flows report to it.
        _ask(signal.SIGTERM, [server])
        _wait(root)
    _ask(signal.SIGKILL, _processes_of(root))
    path.unlink()
    return bool(server or known or flows)


def _ask(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(root: Path, but: Collection[int | None] = ()) -> None:
    """Wait until the processes of this directory have ended: _STOP_S at most, _REPORT_S once no job is among them."""
    started = last_job = time.monotonic()
    told = False
    while left := [pid for pid in _processes_of(root) if pid not in but]:
        now = time.monotonic()
        if any(_JOB in _command_line(pid) for pid in left):
            last_job = now
        if now - started > _STOP_S or now - last_job > _REPORT_S:
            return
        if now - started > _QUIET_S and not told:
            print("waiting for the jobs of the demo, which save their state", flush=True)
            told = True
        time.sleep(0.2)


def _start(root: Path, name: str, environment: dict[str, str], words: list[str]) -> subprocess.Popen[bytes]:
    with (root / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    _started.append(process)
    path = root / _PIDS
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, name: process.pid}))
    return process


def _run(root: Path, environment: dict[str, str], *argv: str) -> None:
    with (root / "deploy.log").open("wb") as log:
        done = subprocess.run(argv, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise VdmError(f"deploying failed: see {root}/deploy.log")


def _is_ours(pid: int) -> bool:
    """Say whether a process is one of Prefect's: its number may belong to another one by now."""
    return b"prefect" in _command_line(pid)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _processes_of(root: Path) -> list[int]:
    """Return the processes that the server and the worker of this directory are, and those that they have started."""
    for child in _started:
        child.poll()
    wanted, found = f"PREFECT_HOME={(root / 'prefect').absolute()}".encode(), []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (each / "environ").read_bytes().split(b"\0") and int(each.name) != os.getpid():
                found.append(int(each.name))
    return found


if __name__ == "__main__":
    main()
