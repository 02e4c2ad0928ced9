"""Prints what a flow run and its subflows say, until it ends; for whoever started it and waits."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
)
from prefect.client.schemas.objects import Log

_EVERY_S = 2.0
_PAGE = 200
_INFO = 20
# JSON is for the flow; the rest Prefect says of each run, some of it twice.
_NOISE = ("{", "Running 1 dep", "Executing dep", "Deployment step", "All deployment", "Finished in state C")


def watch(url: str, run_id: str, show: Callable[[str], None]) -> str:
    """Show the lines of a run as they come and return the type of its last state, such as COMPLETED.

    A server whose database is busy is asked again.

    Args:
      url: of the API.
      run_id: the flow run.
      show: takes one line.

    Raises:
      httpx.HTTPError: the server does not answer any more.
    """
    run, shown = UUID(run_id), dict[UUID, int]()
    below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run]))
    ended = False
    with SyncPrefectClient(url) as client:
        while True:
            state = client.read_flow_run(run).state
            for each in (run, *(subflow.id for subflow in client.read_flow_runs(flow_run_filter=below))):
                for record in _new_records(client, each, shown):
                    # What subflows say beside their jobs is in the jobs' lines too.
                    if (record.task_run_id or each == run) and not record.message.startswith(_NOISE):
                        show(record.message)
            if ended and state is not None:
                return state.type.value
            # The last lines may come after the end.
            ended = state is not None and state.is_final()
            time.sleep(_EVERY_S)


def _new_records(client: SyncPrefectClient, run: UUID, shown: dict[UUID, int]) -> Iterator[Log]:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]), level=LogFilterLevel(ge_=_INFO))
    records = client.read_logs(wanted, limit=_PAGE, offset=shown.get(run, 0))
    shown[run] = shown.get(run, 0) + len(records)
    yield from records
