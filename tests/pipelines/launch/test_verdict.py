"""What states of workers, failed calls and limits mean: pure functions."""

import json
import math

import pytest

from pipelines.launch import gcloud
from pipelines.launch.budget import Budget
from pipelines.launch.crew import WorkerState
from pipelines.launch.tpu_request import TpuRequest, choose_provisioning
from pipelines.launch.verdict import Verdict, judge
from pipelines.planning import prices
from pipelines.planning.accelerators import GENERATIONS
from vdm_lib.errors import ConfigError

ASK = {"name": "vdm-a", "accelerator": "v3-8", "zones": ("us-central1-a",), "workdir": "gs://b/run"}


def _ended(worker: int, code: int, at: float = 1.0, **more: object) -> WorkerState:
    return WorkerState(worker, "exited", exit_code=code, finished=at, **more)


@pytest.mark.parametrize(
    ("states", "verdict", "about"),
    [
        ([_ended(0, 0), _ended(1, 0)], Verdict.DONE, None),
        ([_ended(0, 0), WorkerState(1, "running")], Verdict.RUNNING, None),
        ([_ended(0, 1), WorkerState(1, "unknown")], Verdict.RUNNING, None),
        ([_ended(0, 75), _ended(1, 75)], Verdict.STOPPED, 0),
        ([_ended(0, 75), _ended(1, 75, stop_requested=True)], Verdict.ASKED, 0),
        # A worker that lost its peer aborts later than that: the peer is the one that counts.
        ([_ended(0, 134, 9.0), _ended(1, 1, 3.0)], Verdict.FAILED, 1),
        ([_ended(0, 134, 9.0), _ended(1, 137, 3.0)], Verdict.BROKEN, 1),
        ([_ended(0, 134, 9.0), WorkerState(1, "lost")], Verdict.BROKEN, 1),
        ([_ended(0, 134, 9.0), WorkerState(1, "absent")], Verdict.BROKEN, 1),
        ([_ended(0, 0, 3.0), _ended(1, 2, 4.0)], Verdict.FAILED, 1),
    ],
)
def test_the_states_of_all_workers_give_one_verdict(states, verdict, about):
    judgement = judge(states)
    assert judgement.verdict is verdict
    assert (judgement.worker and judgement.worker.worker) == about


def _operation_error(code: int, message: str) -> str:
    return "ERROR: (gcloud.compute.tpus.tpu-vm.create) " + json.dumps({"code": code, "message": message}, indent=2)


@pytest.mark.parametrize(
    ("code", "stderr", "status"),
    [
        (1, "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'x' was not found", "NOT_FOUND"),
        (1, "ERROR: (gcloud.x) HttpError accessing <u>: content <{'status': 'UNAVAILABLE'}>", "UNAVAILABLE"),
        (1, _operation_error(8, "There is no more capacity in the zone"), "STOCKOUT"),
        (1, _operation_error(8, "Insufficient reserved capacity"), "STOCKOUT"),
        (1, _operation_error(8, "Quota limit 'TPUV3' has been exceeded; ask for capacity"), "QUOTA"),
        (1, _operation_error(3, "the node is in state PREEMPTED"), "PREEMPTED"),
        (1, 'ERROR: (gcloud.y) This TPU has terminal state "PREEMPTED", so it', "PREEMPTED"),
        (255, "ERROR: (gcloud.y) [/usr/bin/ssh] exited with return code [255].", "SSH"),
        (1, "ERROR: (gcloud.y) PERMISSION_DENIED: Location x is not found or access", "PERMISSION_DENIED"),
        (1, "ERROR: (gcloud.y) Your current active account [a] does not have any valid", "UNAUTHENTICATED"),
        (2, "ERROR: (gcloud.y) unrecognized arguments: --x", "USAGE"),
        (-9, "", "KILLED"),
        (1, "something new", "UNKNOWN"),
    ],
)
def test_a_failed_call_is_told_by_its_status(code, stderr, status):
    assert gcloud.classify(code, stderr) == status


def test_the_reason_is_one_line_without_the_prefix():
    text = "Create request issued\n" + _operation_error(8, 'There is no more capacity in the zone "a"; try another')
    assert gcloud.reason(text) == 'There is no more capacity in the zone "a"; try another'
    assert gcloud.reason("ERROR: (gcloud.compute.x) NOT_FOUND: gone\nmore") == "NOT_FOUND: gone"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accelerator": "v3-9"}, "v3-8, v3-32"),
        ({"accelerator": "tpu7x-8"}, "does not serve TPU7x"),
        ({"zones": ()}, "no zone"),
        ({"zones": ("us-central1",)}, "no zone: zones look like"),
        ({"name": "Big_Run"}, "small letters"),
        ({"workdir": "/data/run", "accelerator": "v3-64"}, "8 hosts of v3-64"),
        ({"workdir": "runs/a"}, "gs:// path"),
        ({"workdir": "/mnt/other", "shared_dir": "/mnt/nfs"}, "gs:// path"),
        ({"labels": {"vdm-run": "x"}}, "label"),
        ({"labels": {"team": "Red Team"}}, "label team"),
        ({"wait_hours": 0.0}, "positive"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_created(change, message):
    with pytest.raises(ConfigError, match=message):
        TpuRequest(**(ASK | change))


def test_spot_and_reserved_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude"):
        choose_provisioning(spot=True, reserved=True)
    assert choose_provisioning(spot=False, reserved=False) == "on-demand"


def test_a_run_is_known_by_its_directory():
    assert TpuRequest(**ASK).run_id == TpuRequest(**(ASK | {"workdir": "gs://b/run/", "name": "vdm-b"})).run_id
    assert TpuRequest(**ASK).run_id != TpuRequest(**(ASK | {"workdir": "gs://b/run2"})).run_id


def test_a_budget_keeps_the_lower_of_both_limits():
    assert Budget.of(10.0, 8.0, 2.0, "v3-8").limit_hours == 4.0
    assert Budget.of(3.0, 8.0, 2.0, "v3-8").limit_hours == 3.0
    with pytest.raises(ConfigError, match="price of v3-8"):
        Budget.of(10.0, 8.0, None, "v3-8")
    for hours, cost in ((0.0, None), (math.nan, None), (math.inf, None), (1.0, math.nan), (1.0, math.inf), (1.0, -1.0)):
        with pytest.raises(ConfigError, match="positive"):
            Budget.of(hours, cost, 2.0, "v3-8")


def test_each_generation_has_a_price_and_spot_is_cheaper():
    found = prices.read()
    assert set(found.on_demand) == set(found.spot) == set(GENERATIONS)
    assert all(found.spot[name] < found.on_demand[name] for name in GENERATIONS)


def test_a_price_file_is_checked(tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text('as_of = "2026-01-01"\n[on_demand]\nv3 = 2.0\n[spot]\n')
    slice_ = TpuRequest(**ASK).slice
    assert prices.usd_per_hour(slice_, file=file) == 8.0
    assert prices.usd_per_hour(slice_, "spot", file=file) == 8.0, "no more than on demand"
    file.write_text('as_of = "2026-01-01"\n[on_demand]\n[spot]\nv3 = 0.5\n')
    assert prices.usd_per_hour(slice_, file=file) is None
    assert prices.usd_per_hour(slice_, "spot", file=file) == 2.0
    for wrong in (
        "as_of = 1\n[on_demand]\nv9 = 1.0\n",
        "[on_demand]\n",
        "x",
        *(f"as_of = '1'\n[on_demand]\nv3 = {price}\n" for price in ("-1", "nan", "inf", "true")),
        "as_of = '1'\n[ondemand]\nv3 = 1\n",
    ):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=r"prices.toml"):
            prices.read(file)
