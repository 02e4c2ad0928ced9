"""The whole of it on a real server with a real worker: minutes, so marked slow."""

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.events.schemas.automations import AutomationCore

from flows import demo
from flows.deploy import _AUTOMATIONS, deploy, read_automation
from pipelines.launch.local import _marked, _parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
ROOT = Path(__file__).parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# Without checkpoints of its own: what is there at the end was saved when it was stopped.
LONG = {"train.steps": 1_000_000, "train.log_every": 1, "train.checkpoint_every": 1_000_000}


@dataclass
class Server:
    """A server, its worker, and who is told."""

    root: Path
    url: str
    environment: dict[str, str]
    data: str
    told: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer; a server whose database is locked, which says 503, is asked again, as Prefect does."""
        deadline = time.monotonic() + 600
        while True:
            answer = httpx.request(method, f"{self.url}/api{path}", json=body, timeout=60)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                return answer.raise_for_status().json()
            time.sleep(1.0)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.ask("POST", path, body)

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        return self.post("/flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}})

    def run(self, run_id: str) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{run_id}")

    def start(self, deployment: str, **parameters: Any) -> str:
        found = self.ask("GET", f"/deployments/name/{deployment}/{deployment}")
        return self.post(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]

    def cli(self, *words: str, plugins: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in self.environment.items() if key != "PREFECT_PLUGINS_ENABLED"}
        if not plugins:
            environment["PREFECT_PLUGINS_ENABLED"] = "0"
        return subprocess.run(
            [sys.executable, "-m", "prefect", *words], cwd=ROOT, env=environment, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip


def until(condition: Callable[[], Any], limit_s: float = 600.0) -> Any:
    """Wait for what becomes true; a server that does not answer on a busy machine is asked again."""
    deadline = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if value := condition():
                return value
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[int, list[str]]]:
    """A web hook on loopback and what it was told."""
    told: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            return

    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=hook.serve_forever)
    thread.start()
    yield hook.server_address[1], told
    hook.shutdown()
    hook.server_close()
    thread.join()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, digits_dir: str, listener: tuple[int, list[str]]
) -> Iterator[Server]:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    root = tmp_path_factory.mktemp("server")
    environment = demo.start_server(root, free_port())
    url = environment["PREFECT_API_URL"]
    try:
        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: root / "prefect"}):
            hook_port, told = listener
            block = CustomWebhookNotificationBlock(
                name="test", url=f"http://127.0.0.1:{hook_port}", json_data={"text": "{{subject}}: {{body}}"}
            )
            block.save("alerts")
            with pytest.MonkeyPatch.context() as patch:
                for name in ("PREFECT_API_URL", "PREFECT_HOME"):
                    patch.setenv(name, environment[name])
                deploy("custom-webhook/alerts")
                deploy("custom-webhook/alerts")
        yield Server(root, url.removesuffix("/api"), environment, digits_dir, told)
    finally:
        demo.stop(root)


@pytest.fixture(scope="module")
def worker(server: Server) -> Server:
    """The same server once a run of the schedule has appeared, with a worker and without the schedule."""
    until(lambda: [run for run in server.runs("vdm-eval") if run["state"]["type"] == "SCHEDULED"])
    found = httpx.get(f"{server.url}/api/deployments/name/vdm-eval/vdm-eval", timeout=60).json()
    for schedule in found["schedules"]:
        httpx.patch(
            f"{server.url}/api/deployments/{found['id']}/schedules/{schedule['id']}", json={"active": False}, timeout=60
        ).raise_for_status()
    demo.start_worker(server.root, server.environment)
    return server


def test_a_server_with_a_password_serves_deploy_and_worker_that_have_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:planted")
    environment = demo.start_server(tmp_path, free_port())
    url = environment["PREFECT_API_URL"]
    words = [sys.executable, "-m", "flows.deploy"]
    try:
        assert httpx.post(f"{url}/flow_runs/filter", json={}, timeout=60).status_code == 401
        refused = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("deploy: "), refused.stderr
        assert "PREFECT_API_AUTH_STRING" in refused.stderr
        assert "Traceback" not in refused.stderr
        environment["PREFECT_API_AUTH_STRING"] = "admin:planted"
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        demo.start_worker(tmp_path, environment)
        with httpx.Client(base_url=url, auth=("admin", "planted"), timeout=60) as client:
            found = client.get("/deployments/name/vdm-eval/vdm-eval").raise_for_status().json()
            body = {"parameters": {"runs": str(tmp_path / "no-runs")}}
            run = client.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()
            until(lambda: client.get(f"/flow_runs/{run['id']}").json()["state"]["type"] in FINAL)
            assert client.get(f"/flow_runs/{run['id']}").json()["state"]["name"] == "Skipped"
        for name in ("server.log", "worker.log"):
            assert "admin:planted" not in (tmp_path / name).read_text()
    finally:
        demo.stop(tmp_path)


def test_a_scheduled_run_appears_and_deploying_twice_makes_nothing_double(server):
    until(lambda: [run for run in server.runs("vdm-eval") if run["state"]["type"] == "SCHEDULED"])
    names = sorted(each["name"] for each in server.post("/automations/filter", {}))
    assert names == ["vdm-eval-on-checkpoint", "vdm-eval-regressed", "vdm-run-failed", "vdm-zombies"]
    assert len(server.post("/deployments/filter", {})) == 5


@pytest.mark.parametrize(
    ("plugins", "parameter", "named"),
    [
        (True, "experiment=digit", "did you mean 'digits'"),
        (True, 'overrides={"model.n_emb": 64}', "did you mean 'model.n_embd'"),
        # The server's own check says what is wrong, and lists the configs.
        (False, "experiment=digit", "'digits'"),
        (False, 'overrides={"model.n_emb": 64}', "'model.n_emb'"),
    ],
)
def test_a_wrong_config_is_refused_before_there_is_a_run(server, plugins, parameter, named):
    done = server.cli("deployment", "run", "vdm-train/vdm-train", "-p", parameter, plugins=plugins)
    assert done.returncode != 0
    assert named in " ".join((done.stdout + done.stderr).split())
    assert server.runs("vdm-train") == []


def test_a_training_by_its_bare_name_is_evaluated_by_event_and_its_artifacts_are_there(worker):
    workdir = str(worker.root / "runs" / "short")
    given = {"experiment": "debug", "data": worker.data, "workdir": workdir}
    done = worker.cli("deployment", "run", "vdm-train", "--params", json.dumps(given))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = worker.runs("vdm-train")
    until(lambda: worker.run(run["id"])["state"]["type"] in FINAL)
    assert worker.run(run["id"])["state"]["type"] == "COMPLETED", worker.run(run["id"])["state"]

    def reported() -> list[Path]:
        return [Path(workdir) / "eval" / f"{step}.json" for step in (3, 6)]

    until(lambda: all(path.exists() for path in reported()))
    evaluations = [run for run in worker.runs("vdm-eval") if run["parameters"].get("workdir") == workdir]
    assert evaluations
    until(lambda: all(worker.run(run["id"])["state"]["type"] in FINAL for run in evaluations))
    assert {worker.run(run["id"])["state"]["type"] for run in evaluations} == {"COMPLETED"}
    names = {each["key"] for each in worker.post("/artifacts/latest/filter", {})}
    kinds = {name.split("-")[0] for name in names if name}
    assert {"progress", "workdir", "tensorboard", "bpd", "report", "samples"} <= kinds


def emit(server: Server, name: str, resource: str, payload: dict[str, Any]) -> None:
    event = {
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": name,
        "resource": {"prefect.resource.id": resource}, "payload": payload, "id": str(uuid.uuid4()),
    }  # fmt: skip
    httpx.post(f"{server.url}/api/events", json=[event], timeout=60).raise_for_status()


def test_an_event_with_a_strange_payload_is_a_failed_run_that_says_what_is_missing(worker):
    emit(worker, "vdm.checkpoint.committed", "vdm.run.strange", {"something": ["else"]})
    run = until(lambda: [run for run in worker.runs("vdm-eval") if run["parameters"].get("workdir") == ""])[0]
    state = until(lambda: (s := worker.run(run["id"])["state"])["type"] in FINAL and s)
    assert state["type"] == "FAILED"
    assert "workdir is empty" in state["message"]
    # Whoever is to be told of failures is told.
    until(lambda: any("workdir is empty" in text for text in worker.told))


def test_a_regression_is_told_to_whoever_is_to_be_told(server):
    emit(server, "vdm.eval.regressed", "vdm.run.worse", {"workdir": "runs/worse", "text": "step 9 is worse by 0.3"})
    until(lambda: any("runs/worse: step 9 is worse by 0.3" in text for text in server.told), 60)


def test_a_run_whose_heartbeat_stops_is_marked_as_crashed(server):
    """The shipped automation with a shorter time: its process and its worker are gone, as after a power cut."""
    zombies = read_automation(_AUTOMATIONS / "zombies.yaml", None)
    assert isinstance(zombies, AutomationCore)
    quick = zombies.model_dump(mode="json") | {"name": "quick-zombies"}
    quick["trigger"]["within"] = 10
    made = server.post("/automations/", quick)
    (deployment,) = server.post("/deployments/filter", {"deployments": {"name": {"any_": ["vdm-export"]}}})
    flow = {"name": "dead", "flow_id": deployment["flow_id"], "state": {"type": "RUNNING"}}
    dead, alive = (server.post("/flow_runs/", {**flow, "name": name})["id"] for name in ("dead", "alive"))
    for run_id in (dead, alive):
        emit(server, "prefect.flow-run.heartbeat", f"prefect.flow-run.{run_id}", {})

    def crashed() -> bool:
        emit(server, "prefect.flow-run.heartbeat", f"prefect.flow-run.{alive}", {})
        return server.run(dead)["state"]["type"] == "CRASHED"

    until(crashed, 120)
    assert "no heartbeat" in server.run(dead)["state"]["message"]
    assert server.run(alive)["state"]["type"] == "RUNNING"
    httpx.delete(f"{server.url}/api/automations/{made['id']}", timeout=60).raise_for_status()


def start_long_training(worker: Server, name: str) -> tuple[str, int, Path]:
    """Start a training that does not end by itself; return its run, its process and its run directory."""
    workdir = worker.root / "runs" / name
    run_id = worker.start(
        "vdm-train", experiment="debug", data=worker.data, workdir=str(workdir), overrides=LONG
    )  # fmt: skip
    until(lambda: step_of(workdir) > 25)
    return run_id, next(pid for pid in _marked(run_id) if _parent(pid) not in set(_marked(run_id))), workdir


def step_of(workdir: Path) -> int:
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        return int(json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    return 0


def test_cancelling_a_run_stops_its_training_and_keeps_its_state(worker):
    run_id, _, workdir = start_long_training(worker, "cancelled")
    assert worker.cli("flow-run", "cancel", run_id).returncode == 0
    until(lambda: worker.run(run_id)["state"]["type"] == "CANCELLED")
    until(lambda: not list(_marked(run_id)))
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(steps) == step_of(workdir)


def test_a_killed_flow_stops_its_training_and_a_retry_goes_on_from_there(worker):
    run_id, training, workdir = start_long_training(worker, "killed")
    os.kill(_parent(training), signal.SIGKILL)
    until(lambda: worker.run(run_id)["state"]["type"] == "CRASHED")
    until(lambda: not list(_marked(run_id)))
    saved = step_of(workdir)
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(steps) == saved

    def goes_on() -> bool:
        # The worker may report the crash twice within some seconds; a retry between the two is lost.
        if worker.run(run_id)["state"]["type"] == "CRASHED":
            worker.cli("flow-run", "retry", run_id)
        return step_of(workdir) > saved + 5

    until(goes_on)
    rows = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()[:-1]]
    assert rows == list(range(1, len(rows) + 1))
    assert worker.cli("flow-run", "cancel", run_id).returncode == 0
    until(lambda: not list(_marked(run_id)))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here to look at the pages")
@pytest.mark.parametrize("kind", ["bpd", "report", "run"])
def test_the_pages_of_a_run_show_the_table_and_the_pictures(worker, tmp_path, kind):
    (run,) = [run for run in worker.runs("vdm-train") if run["parameters"]["workdir"].endswith("short")]
    if kind == "run":
        address = f"{worker.url}/v2/runs/flow-run/{run['id']}?tab=Artifacts"
    else:
        # The page of a key has no data, that of one artifact has; `latest` gives the id of the key's collection.
        found = [each for each in worker.post("/artifacts/filter", {}) if (each["key"] or "").startswith(f"{kind}-")]
        newest = max((each for each in found if each["key"].endswith("short")), key=lambda each: each["created"])
        address = f"{worker.url}/v2/artifacts/artifact/{newest['id']}"
    words = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=12000", "--window-size=1400,1400",
    ]  # fmt: skip
    page = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, check=True, timeout=300)
    shot = tmp_path / f"{kind}.png"
    subprocess.run([*words, f"--screenshot={shot}", address], capture_output=True, check=True, timeout=300)
    assert shot.read_bytes().startswith(b"\x89PNG")
    expected = {"bpd": "difference to the best", "report": "data:image/png;base64,", "run": "workdir"}[kind]
    assert expected in page.stdout
    if kind == "bpd":
        assert " ± " in page.stdout
