"""The flows on the smallest config, against a real API; their jobs are real too."""

import contextvars
import json
import shutil
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.states import Cancelled, Running

import configs
from flows import evaluate, run_view, watch
from flows.evaluate import vdm_eval
from flows.export import vdm_export
from flows.job import JobError, run_job
from flows.one_at_a_time import one_evaluation_of
from flows.parameters import slug
from flows.pipeline import vdm_pipeline
from flows.preprocess import vdm_preprocess
from flows.train import vdm_train
from pipelines.launch.job import Job
from pipelines.launch.local import LocalProcess
from vdm_lib.errors import CheckpointError, ConfigError, DataError

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("prefect_server")]
SECRET = "planted-secret-5871"


def artifact(key: str) -> Any:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    assert found, key
    return max(found, key=lambda each: each.created)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A pipeline that went through, from nothing to a promoted model; its last stage failed at first."""
    root = tmp_path_factory.mktemp("pipeline")
    # No directory can be made there.
    (root / "registry").write_text("in the way")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_API_KEY", SECRET)
        failed = vdm_pipeline(**parameters(root), return_state=True)
        assert failed.is_failed()
        assert (root / "runs" / "debug" / "export").exists(), failed.message
        (root / "registry").unlink()
        started: list[str] = []
        patch.setattr("flows.job.LocalProcess.run", recording(started))
        state = vdm_pipeline(**parameters(root), return_state=True)
    assert state.is_completed(), state.message
    # Of all the jobs only the one that failed was run again.
    assert started == ["promote"]
    assert artifact(key(root, "pipeline")).data.count("| Skipped |") == 3
    return root


def recording(started: list[str]) -> Any:
    """Return LocalProcess.run, which also notes which command of vdm it runs."""
    run = LocalProcess.run

    def note(self: LocalProcess, job: Job, on_line: Any) -> int:
        started.append(job.argv[3])
        return run(self, job, on_line)

    return note


def parameters(root: Path) -> dict[str, Any]:
    return {
        "experiment": "debug",
        "data": str(root / "data"),
        "workdir": str(root / "runs" / "debug"),
        "registry": str(root / "registry"),
        "samples": 4,
        "sample_steps": 4,
    }


def key(place: Path, kind: str) -> str:
    return f"{kind}-{slug(parameters(place)['workdir'])}"


@pytest.mark.slow
def test_the_pipeline_goes_from_data_to_a_promoted_model(place):
    run = Path(parameters(place)["workdir"])
    assert run_view.checkpoint_steps(str(run)) == [3, 6]
    assert [report.step for report in run_view.reports(str(run))] == [3, 6]
    best = min(run_view.reports(str(run)), key=lambda report: report.bpd).step
    assert (run / "export" / str(best) / "README.md").exists()
    promoted = (place / "registry" / "debug" / "promoted").read_text()
    assert promoted.startswith(f"{best:08d}-")


@pytest.mark.slow
def test_what_is_done_is_not_done_again(place, monkeypatch):
    monkeypatch.setattr("flows.job.LocalProcess.run", lambda *_: pytest.fail("a job was started"))
    before = sorted(path for path in place.rglob("*") if path.is_file())
    state = vdm_pipeline(**parameters(place), return_state=True)
    assert state.is_completed(), state.message
    assert sorted(path for path in place.rglob("*") if path.is_file()) == before
    table = artifact(key(place, "pipeline")).data
    assert table.count("| Skipped |") == 4


@pytest.mark.slow
def test_the_table_has_bpd_with_its_error_and_the_difference_to_the_best(place):
    rows = json.loads(artifact(key(place, "bpd")).data)
    assert [row["step"] for row in rows] == [6, 3]
    assert all(" ± " in row["bpd"] for row in rows)
    assert sorted("best" in row["difference to the best"] for row in rows) == [False, True]


@pytest.mark.slow
def test_the_report_shows_the_curve_and_the_samples(place):
    report = artifact(key(place, "report")).data
    assert report.count("data:image/png;base64,") == 2
    assert artifact(key(place, "samples")).data.startswith("data:image/png;base64,")
    assert artifact(key(place, "progress")).data == 100
    assert artifact(key(place, "workdir")).type == "markdown"
    assert "promoted" in artifact(key(place, "export")).data


@pytest.mark.slow
def test_a_secret_of_the_environment_is_in_no_log_error_or_artifact(place, monkeypatch, caplog):
    monkeypatch.setenv("PLANTED_API_KEY", SECRET)
    code = "import os, sys; print('key', os.environ['PLANTED_API_KEY']); sys.exit(3)"

    @flow
    def leaks() -> None:
        run_job(f"show {SECRET}", Job((sys.executable, "-c", code)))

    state = leaks(return_state=True)
    assert state.is_failed()
    assert SECRET not in state.message
    assert "key <PLANTED_API_KEY>" in caplog.text
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    assert len(artifacts) > 5
    assert not [each.key for each in artifacts if SECRET in str(each.data)]


def test_a_job_that_was_interrupted_is_run_again_and_one_that_failed_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(run_job, "retry_delay_seconds", [0.01])
    tries = tmp_path / "tries"
    code = f"""
import sys
with open({str(tries)!r}, "a") as file:
    file.write("x")
if len(open({str(tries)!r}).read()) < 3:
    sys.exit(int(sys.argv[1]))
print('{{"done": true}}')
"""

    @flow
    def one(exit_code: int, final: bool = False) -> Any:
        return run_job("probe", Job((sys.executable, "-c", code, str(exit_code))), stop_is_final=final)

    assert one(75) == {"done": True}
    assert tries.read_text() == "xxx"
    for exit_code, final in ((1, False), (75, True)):
        tries.unlink()
        with pytest.raises(JobError):
            one(exit_code, final)
        assert tries.read_text() == "x"


@pytest.mark.slow
def test_a_checkpoint_that_is_worse_by_more_than_two_errors_is_announced(place, monkeypatch):
    good, bad = run_view.reports(parameters(place)["workdir"])
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate, "emit_event", lambda name, **rest: events.append({"event": name, **rest}))
    worse, noise = (replace(bad, step=9, bpd=good.bpd + by, bpd_stderr=0.1) for by in (1.0, 0.1))

    @flow
    def look(report: Any) -> None:
        evaluate.announce_regressions("runs/a", [report], [good, report])

    look(noise)
    assert not events
    look(worse)
    assert [each["event"] for each in events] == ["vdm.eval.regressed"]
    assert events[0]["payload"]["best_step"] == good.step and events[0]["payload"]["step"] == 9


@pytest.mark.slow
def test_nothing_new_is_skipped(place):
    state = vdm_eval(workdir=parameters(place)["workdir"], return_state=True)
    assert (state.name, state.is_completed()) == ("Skipped", True)
    assert vdm_eval(runs=str(place / "no-such"), return_state=True).name == "Skipped"


@pytest.mark.slow
def test_one_broken_run_does_not_keep_the_others_from_their_evaluation(place, tmp_path, monkeypatch):
    # Where there is no data/digits, whatever lies in the directory that the tests are run from.
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    (runs / "a-broken").mkdir(parents=True)
    (runs / "a-broken" / "config.json").write_text("{")
    shutil.copytree(parameters(place)["workdir"], runs / "b")
    (runs / "b" / "eval" / "3.json").unlink()
    state = vdm_eval(runs=str(runs), samples=0, return_state=True)
    # Both runs are named.
    assert state.is_failed()
    assert "a-broken" in state.message and "data/digits" in state.message


@pytest.mark.slow  # exports a second model
@pytest.mark.slow
def test_a_worse_model_is_not_promoted_and_the_run_says_so(place, tmp_path):
    run = parameters(place)["workdir"]
    (bundle,) = (Path(run) / "export").iterdir()
    better = "00000099-0123456789"
    model = tmp_path / "registry" / "debug"
    shutil.copytree(bundle, model / better)
    values = json.loads((bundle / "metrics.json").read_text())
    (model / better / "metrics.json").write_text(json.dumps({**values, "bpd": values["bpd"] - 1, "bpd_stderr": 1e-3}))
    (model / "promoted").write_text(f"{better}\n")
    given = {"workdir": run, "registry": str(tmp_path / "registry")}
    state = vdm_export(**given, return_state=True)
    assert (state.name, state.is_completed()) == ("NotPromoted", True), state.message
    assert "worse" in state.message
    assert (model / "promoted").read_text().strip() == better
    # The same question gets the same answer without a job.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.job.LocalProcess.run", lambda *_: pytest.fail("a job was started"))
        assert vdm_export(**given, return_state=True).name == "NotPromoted"


@pytest.mark.parametrize(
    ("deployed", "given", "error", "message"),
    [
        (vdm_train, {"experiment": "debug", "overrides": {"model.n_emb": 64}}, Exception, "n_emb"),
        (vdm_train, {"experiment": "debug", "data": "no/such/data"}, DataError, "no/such/data"),
        (vdm_train, {"experiment": "debug", "launcher": "tpu"}, ConfigError, "needs a slice"),
        (vdm_train, {"experiment": "debug", "launcher": "ssh"}, ConfigError, "needs hosts"),
        (vdm_eval, {"workdir": ""}, ConfigError, "workdir is empty"),
        (vdm_eval, {"data": "data/digits"}, ConfigError, "give workdir too"),
        (vdm_eval, {"workdir": "no/such/run"}, Exception, "holds no run"),
        (vdm_export, {"workdir": "no/such/run"}, CheckpointError, "holds no run"),
        (vdm_preprocess, {"runner": "DataflowRunner", "out": "data/x"}, ConfigError, "gs://"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_started(deployed, given, error, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.job.LocalProcess.run", lambda *_: pytest.fail("a job was started"))
    with pytest.raises(error, match=message):
        deployed(**given)


def test_a_tpu_training_checks_the_slice_before_anything_is_created(monkeypatch):
    monkeypatch.setattr("flows.job.LocalProcess.run", lambda *_: pytest.fail("a job was started"))
    given = {"experiment": "debug", "data": "gs://b/data", "workdir": "runs/here", "launcher": "tpu"}
    tpu = {"accelerator": "v3-8", "zones": "us-central1-a"}
    with pytest.raises(ConfigError, match="gs://"):
        vdm_train(**given, tpu=tpu)
    with pytest.raises(ConfigError, match="v9"):
        vdm_train(**{**given, "workdir": "gs://b/run"}, tpu={**tpu, "accelerator": "v9-8"})
    batch = {"overrides": {"train.batch_size": 12}}
    with pytest.raises(ConfigError, match="multiple of 8"):
        vdm_train(**{**given, "workdir": "gs://b/run"}, tpu=tpu, **batch)


@pytest.mark.slow
def test_a_run_directory_of_another_config_is_refused(place, monkeypatch):
    monkeypatch.setattr("flows.job.LocalProcess.run", lambda *_: pytest.fail("a job was started"))
    given = parameters(place)
    with pytest.raises(ConfigError, match="n_embd"):
        vdm_train("debug", {"model.n_embd": 96}, data=given["data"], workdir=given["workdir"])


@pytest.mark.slow
def test_two_runs_do_not_train_in_one_run_directory(place, monkeypatch):
    monkeypatch.setattr("flows.job.LocalProcess.run", lambda *_: pytest.fail("a job was started"))
    given = parameters(place)
    more = {"overrides": {"train.steps": 9}, "data": given["data"], "workdir": given["workdir"]}
    with get_client(sync_client=True) as client:
        other = client.create_flow_run(vdm_train, parameters={"workdir": given["workdir"]}, state=Running())
        with pytest.raises(ConfigError, match=f"prefect flow-run cancel {other.id}"):
            vdm_train("debug", **more)
        client.set_flow_run_state(other.id, Cancelled(), force=True)


def test_a_run_directory_is_evaluated_by_one_flow_at_a_time():
    inside = threading.Event()

    def second() -> None:
        with one_evaluation_of("runs/a"):
            inside.set()

    # Prefect keeps the address of its server in context variables.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(second,), daemon=True)
    with one_evaluation_of("runs/a"):
        with one_evaluation_of("runs/b"):
            thread.start()
        assert not inside.wait(1)
    assert inside.wait(300)
    thread.join()


def test_whoever_waits_sees_the_lines_of_the_jobs_and_of_the_run(monkeypatch):
    monkeypatch.setattr(watch, "_EVERY_S", 0.01)
    shown: list[str] = []
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(vdm_pipeline, parameters={}, state=Running())
        texts = ["All deployment steps completed successfully", "data: Completed", "Finished in state Completed()"]
        now = datetime.now(UTC)
        client.create_logs(
            LogCreate(name="any", level=20, message=text, timestamp=now, flow_run_id=run.id) for text in texts
        )
        client.set_flow_run_state(run.id, Cancelled(), force=True)
        assert watch.watch(str(client.api_url), str(run.id), shown.append) == "CANCELLED"
    assert shown == ["data: Completed"]


def test_every_override_that_a_config_has_is_known_to_the_form():
    assert {"train.steps", "model.n_embd", "eval.passes"} <= set(configs.override_keys())
