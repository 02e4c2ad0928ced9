"""Prints what a flow run and its subflows say, until it ends; for whoever started it and waits."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

_EVERY_S = 2.0
_PAGE = 200
_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def watch(url: str, run_id: str, show: Callable[[str], None]) -> str:
    """Show the lines of a run as they come and return the type of its last state, such as COMPLETED.

    Args:
      url: of the API.
      run_id: the flow run.
      show: takes one line.
    """
    shown: dict[str, int] = {}
    with httpx.Client(base_url=url, timeout=60) as client:
        while True:
            state = client.get(f"flow_runs/{run_id}").raise_for_status().json()["state"]["type"]
            body = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}}
            subflows = client.post("flow_runs/filter", json=body).raise_for_status().json()
            for each in (run_id, *(subflow["id"] for subflow in subflows)):
                for record in _new_records(client, each, shown):
                    # What subflows say beside their jobs is in the jobs' lines too, and JSON is for the flow.
                    is_own = bool(record["task_run_id"]) or each == run_id
                    if is_own and not record["message"].startswith("{"):
                        show(record["message"])
            if state in _FINAL:
                return state
            time.sleep(_EVERY_S)


def _new_records(client: httpx.Client, run_id: str, shown: dict[str, int]) -> Iterator[dict[str, Any]]:
    body = {
        "logs": {"flow_run_id": {"any_": [run_id]}, "level": {"ge_": 20}},
        "sort": "TIMESTAMP_ASC", "offset": shown.get(run_id, 0), "limit": _PAGE,
    }  # fmt: skip
    records = client.post("logs/filter", json=body).raise_for_status().json()
    shown[run_id] = shown.get(run_id, 0) + len(records)
    yield from records
