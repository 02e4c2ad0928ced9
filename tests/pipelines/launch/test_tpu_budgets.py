"""When a launch starts its program again and when it gives up; the attempts are given, nothing is called."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.launch.crew import WorkerState
from pipelines.launch.errors import LaunchError
from pipelines.launch.job import Job
from pipelines.launch.tpu_pod import TpuPod
from pipelines.launch.verdict import Judgement, Verdict
from pipelines.launch.watch import Patience


def _run(monkeypatch: pytest.MonkeyPatch, *attempts: Verdict | int, machines: Verdict = Verdict.RUNNING):
    """Return the exit code and the launcher after these attempts; a number is the exit code of a failed program."""
    left = list(attempts)
    lease = SimpleNamespace(zone="z", condition=lambda: machines, release=lambda: None)
    pod = TpuPod(lease, SimpleNamespace(stop=lambda: None), Path("p"), lambda _: None, Patience(lease_s=0), keep=True)

    def attempt(job: Job, on_line: object) -> Judgement:
        each = left.pop(0)
        if isinstance(each, Verdict):
            return Judgement(each)
        return Judgement(Verdict.FAILED, WorkerState(0, "exited", exit_code=each))

    monkeypatch.setattr(pod, "_one_attempt", attempt)
    code = pod.run(Job(("x",)), lambda _: None)
    assert not left
    return code, pod


def test_a_failure_is_tried_once_more_and_wrong_usage_is_not(monkeypatch):
    assert _run(monkeypatch, 3, 3)[0] == 3
    assert _run(monkeypatch, 3, Verdict.DONE)[0] == 0
    assert _run(monkeypatch, 2)[0] == 2


def test_a_failure_after_a_lost_attempt_is_not_the_programs_own(monkeypatch):
    code, pod = _run(monkeypatch, Verdict.BROKEN, 1, Verdict.BROKEN, 1, Verdict.DONE)
    assert (code, pod.counts.restarts, pod.counts.failures) == (0, 2, 0)
    assert _run(monkeypatch, Verdict.GONE, 1, 1, 1)[0] == 1, "once for each loss"


def test_workers_lost_on_a_slice_that_stays_have_a_limit(monkeypatch):
    with pytest.raises(LaunchError, match="11 times"):
        _run(monkeypatch, *[Verdict.BROKEN] * 11)


def test_a_stop_on_request_ends_and_a_stop_by_the_machine_goes_on(monkeypatch):
    assert _run(monkeypatch, Verdict.ASKED)[0] == 75
    assert _run(monkeypatch, Verdict.LIMIT)[0] == 75
    assert _run(monkeypatch, Verdict.STOPPED, Verdict.DONE)[0] == 0
    assert _run(monkeypatch, Verdict.BROKEN, machines=Verdict.LIMIT)[0] == 75
    with pytest.raises(LaunchError, match="deleted by somebody"):
        _run(monkeypatch, Verdict.BROKEN, machines=Verdict.DELETED)
