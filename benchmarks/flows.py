"""What Prefect costs before a job is started, beyond the time until the worker looks for runs again."""

import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import httpx

from benchmarks.figures import Figure, of_repetitions
from flows import demo

_REPEATS, _LIMIT_S = 3, 300.0
_PORT = 4391
_PULLED = "All deployment steps completed successfully"


def figures() -> list[Figure]:
    """Return seconds from a run's pick-up by the worker to the start of its job, and from its creation."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        try:
            environment = demo.start_server(root, _PORT)
            subprocess.run([sys.executable, "-m", "flows.deploy"], env=environment, capture_output=True, check=True)
            demo.start_worker(root, environment)
            with httpx.Client(base_url=environment["PREFECT_API_URL"], timeout=60) as client:
                times = [_one_run(client, root / f"data-{i}") for i in range(_REPEATS)]
        finally:
            demo.stop(root)
    own, beyond, whole = zip(*times, strict=True)
    bar = "at most 3 s"
    return [
        of_repetitions("vdm-preprocess: Prefect's pull steps done to start of the job", own, "s"),
        of_repetitions("vdm-preprocess: picked up by the worker to start of the job", beyond, "s", bar=bar),
        of_repetitions("vdm-preprocess: run created to start of the job, worker polls every 3 s", whole, "s"),
    ]


def _one_run(client: httpx.Client, out: Path) -> tuple[float, float, float]:
    """Return the seconds until the job is started, from the end of Prefect's pull steps, pick-up and creation."""
    found = client.get("deployments/name/vdm-preprocess/vdm-preprocess").raise_for_status().json()
    body = {"parameters": {"out": str(out), "limit": 8}}
    run = client.post(f"deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()
    lines: list[dict[str, str]] = []
    deadline = time.monotonic() + _LIMIT_S
    while not (first := _start_of_the_job(lines)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no job within {_LIMIT_S:.0f} s: {lines}")
        time.sleep(0.2)
        query = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"}
        lines = client.post("logs/filter", json=query).raise_for_status().json()
    pulled = next(line["timestamp"] for line in lines if line["message"] == _PULLED)
    # The worker's first line: it has seen the run.
    return _at(first) - _at(pulled), _at(first) - _at(lines[0]["timestamp"]), _at(first) - _at(run["created"])


def _start_of_the_job(lines: list[dict[str, str]]) -> str | None:
    """Return the time of the line that names the job's command, at its start; None if there is none."""
    return next((line["timestamp"] for line in lines if line["task_run_id"]), None)


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
