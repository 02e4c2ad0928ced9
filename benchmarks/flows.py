"""What a flow costs before its job is started and speaks, and how much of that an empty flow costs too."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.responses import DeploymentResponse

from benchmarks.figures import Figure, of_repetitions
from flows import demo

_REPEATS, _LIMIT_S = 5, 300.0
_PORT = 4391
_BAR = "at most 3 s"


def figures() -> list[Figure]:
    """Return seconds from a run's creation and its pick-up by the worker to its job, beside an empty flow."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        try:
            environment = demo.start_server(root, _PORT)
            subprocess.run([sys.executable, "-m", "flows.deploy"], env=environment, capture_output=True, check=True)
            demo.start_worker(root, environment)
            with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
                ours = client.read_deployment_by_name("vdm-preprocess/vdm-preprocess")
                empty = _deploy_empty(client, ours)
                _one_run(client, empty, {}, 1)  # the first of a worker compiles bytecode
                rows, empties = [], []
                for i in range(_REPEATS):
                    empties.append(_one_run(client, empty, {}, 1))
                    rows.append(_one_run(client, ours.id, {"out": str(root / f"data-{i}"), "limit": 8}, 2))
            shell = [_seconds_to_first_line(root / f"shell-{i}") for i in range(_REPEATS)]
        finally:
            demo.stop(root)
    polls = "worker polls every 3 s"
    return [
        of_repetitions("empty flow: picked up by the worker to its first line", [e[1] for e in empties], "s"),
        of_repetitions("vdm-preprocess: picked up by the worker to start of the job", [r[1] for r in rows], "s", _BAR),
        of_repetitions(f"vdm-preprocess: run created to start of the job, {polls}", [r[0] for r in rows], "s"),
        of_repetitions("vdm-preprocess: start of the job to its first line", [r[2] - r[1] for r in rows], "s"),
        of_repetitions("vdm prepare in a shell: to its first line", shell, "s"),
    ]


def _deploy_empty(client: SyncPrefectClient, like: DeploymentResponse) -> UUID:
    """Deploy the empty flow as another deployment is and return its id."""
    return client.create_deployment(
        client.create_flow_from_name("empty"), "empty", entrypoint="benchmarks.empty_flow.empty",
        pull_steps=like.pull_steps, path=like.path, work_pool_name=like.work_pool_name,
    )  # fmt: skip


def _one_run(client: SyncPrefectClient, deployment: UUID, parameters: dict[str, Any], count: int) -> list[float]:
    """Return seconds from creation to the first line of the task, then from pick-up to each of its first lines."""
    run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    assert run.created is not None
    query = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    deadline = time.monotonic() + _LIMIT_S
    while True:
        time.sleep(0.2)
        lines = client.read_logs(query)
        said = [line.timestamp for line in lines if line.task_run_id]
        state = client.read_flow_run(run.id).state
        # Only when it has ended is the next run not slowed by its job.
        if len(said) >= count and state is not None and state.is_completed():
            # The worker's first line: it has seen the run.
            picked_up = lines[0].timestamp
            return [(said[0] - run.created).total_seconds(), *((at - picked_up).total_seconds() for at in said[:count])]
        # Lines may come after the end.
        if time.monotonic() > deadline or (state is not None and (state.is_failed() or state.is_crashed())):
            raise TimeoutError(f"the run is {state}: {[line.message for line in lines]}")


def _seconds_to_first_line(out: Path) -> float:
    words = [sys.executable, "-m", "pipelines.command", "prepare", "digits", "--out", str(out), "--limit", "8"]
    started = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        took = time.monotonic() - started
        process.stdout.read()
    return took
