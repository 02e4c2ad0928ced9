"""`vdm tpu run debug` on a slice of two workers: it trains with jax.distributed, and a preemption changes no number."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from pipelines import command
from tests.pipelines.launch.fake_tpu import FakeTpu
from tests.pipelines.launch.launching import later, needs_gcloud
from tests.pipelines.rows import without_speed

pytestmark = [needs_gcloud, pytest.mark.slow, pytest.mark.timeout(2400)]


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _worker_environment() -> str:
    """Return what makes jax find the other workers as on a TPU VM, on this machine's CPU.

    Programs that are compiled already are those of the other tests.
    """
    caches = {name: value for name, value in os.environ.items() if name.startswith("JAX_") and "CACHE" in name}
    return json.dumps(
        caches
        | {
            "SIMULATED_PYTHON": sys.executable,
            "JAX_PLATFORMS": "cpu",
            "JAX_FORCE_TPU_INIT": "1",
            "MEGASCALE_COORDINATOR_ADDRESS": "127.0.1.1",
            "MEGASCALE_NUM_SLICES": "1",
            "MEGASCALE_SLICE_ID": "0",
            "JAX_COORDINATOR_PORT": str(_free_port()),
        }
    )


def _run(shared: Path, name: str, capsys: pytest.CaptureFixture[str]) -> dict:
    words = [
        "tpu", "run", "debug", "train.steps=30", "train.checkpoint_every=5", "train.log_every=5",
        "--data", str(shared / "digits"), "--workdir", str(shared / name), "--shared-dir", str(shared),
        "--accelerator", "v4-16", "--zones", "us-central1-a", "--direct", "--poll", "5", "--json",
    ]  # fmt: skip
    code = command.main(words)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])


def _rows(directory: Path) -> list[dict]:
    return [without_speed(json.loads(line)) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_preempted_run_ends_with_the_numbers_of_an_undisturbed_one(
    fake: FakeTpu, digits_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    shared = tmp_path / "shared"
    shutil.copytree(digits_dir, shared / "digits")
    monkeypatch.setenv("SIMULATED_ENVIRONMENT", _worker_environment())
    whole = _run(shared, "whole", capsys)
    assert (whole["attempts"], whole["slices"]) == (1, 1)
    assert [worker["exit_code"] for worker in whole["workers"]] == [0, 0]
    assert fake.node_names() == []

    monkeypatch.setenv("SIMULATED_ENVIRONMENT", _worker_environment())
    checkpoint = shared / "broken" / "checkpoints" / "5"
    (name,) = {full.rpartition("/")[2] for full in fake.created}
    assert name == whole["name"]
    thread = later(checkpoint.exists, lambda: fake.preempt(fake.node_names()[0]))
    broken = _run(shared, "broken", capsys)
    thread.join()
    assert broken["slices"] == 2, "the preemption came too late to be one"
    assert fake.node_names() == []
    assert _rows(shared / "broken") == _rows(shared / "whole")
    assert _rows(shared / "whole")[-1]["step"] == 30
