"""Keeps two flow runs from working on one run directory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import StateType
from prefect.concurrency.sync import concurrency
from prefect.exceptions import PrefectHTTPStatusError

from flows.parameters import slug
from vdm_lib.errors import ConfigError

_HOLDING = [StateType.RUNNING, StateType.CANCELLING]


def refuse_second_training(workdir: str) -> None:
    """Refuse a training while another flow run trains in the same run directory.

    On one machine the run directory's own lock refuses it too; machines far away know no such lock.

    Raises:
      ConfigError: names the other flow run.
    """
    mine = {str(runtime.flow_run.id), str(runtime.flow_run.root_flow_run_id)}
    with get_client(sync_client=True) as client:
        others = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["vdm-train"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypeFilter(any_=_HOLDING))),
        )
    for other in others:
        if str(other.id) not in mine and _workdir(other.parameters) == workdir:
            raise ConfigError(
                f"the flow run {other.name} trains in {workdir} already: wait for it, or "
                f"`prefect flow-run cancel {other.id}`"
            )


def _workdir(parameters: dict[str, Any]) -> str:
    return parameters.get("workdir") or f"runs/{parameters.get('experiment', 'digits')}"


@contextmanager
def one_evaluation_of(workdir: str) -> Iterator[None]:
    """Wait until no other flow run evaluates this run directory, and hold it."""
    name = f"vdm-eval-{slug(workdir)}"
    # Of two that make the limit at the same time one is refused, and the limit is there.
    with get_client(sync_client=True) as client, suppress(PrefectHTTPStatusError):
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, occupy=1):
        yield
