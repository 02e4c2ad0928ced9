"""`vdm tpu` from the shell: real training on simulated workers with the wheel that is sent, and the other actions."""

import json
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pipelines import command
from pipelines.launch import package
from pipelines.launch.errors import LaunchError
from tests.pipelines.launch.fake_tpu import FakeTpu
from tests.pipelines.launch.launching import Launch, needs_gcloud

SLICE = ["--accelerator", "v4-16", "--zones", "us-central1-a", "--workdir", "gs://b/run"]


def test_a_dry_run_prints_every_command_and_calls_none(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # neither gcloud nor ssh
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("something was started"))
    words = ["tpu", "run", "debug", "train.steps=8", "--data", "gs://b/digits", *SLICE, "--spot", "--dry-run"]
    assert command.main(words) == 0
    captured = capsys.readouterr()
    assert "nothing is called or built; HASH" in captured.err
    lines = captured.out.splitlines()
    assert all(line.startswith("gcloud ") for line in lines)
    verbs = [line.split()[4] for line in lines[1:]]
    assert verbs == ["describe"] * 2 + ["create"] + ["scp"] * 2 + ["ssh"] * 6 + ["delete"] * 2
    (create,) = (line for line in lines if " create " in line)
    for flag in ("queued-resources", "--accelerator-type=v4-16", "--runtime-version=tpu-ubuntu2204-base", "--spot"):
        assert flag in create
    assert "vdm-run=" in create
    assert " -- venv/bin/python -m pipelines.command train debug train.steps=8 --data gs://b/digits" in "\n".join(lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accelerator", "v3-9"], "v3-8, v3-32"),
        (["--spot", "--reserved"], "exclude"),
        (["--workdir", "/data/run"], "on the disks of the 2 hosts of v4-16"),
        (["--data", "/data/digits"], "data directory"),
        (["--max-cost", "-1"], "positive"),
        (["--label", "Team=Red"], "label"),
    ],
)
def test_bad_input_is_refused_with_exit_code_2(words, message, capsys):
    assert command.main(["tpu", "run", "debug", "--data", "gs://b/digits", *SLICE, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_batch_that_the_slice_cannot_share_is_refused(capsys):
    words = ["tpu", "run", "debug", "train.batch_size=6", "--data", "gs://b/digits", *SLICE]
    assert command.main(words) == 2
    assert "8 devices of v4-16" in capsys.readouterr().err


def test_without_gcloud_it_says_where_to_get_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["tpu", "list"]) == 1
    assert "cloud.google.com/sdk" in capsys.readouterr().err


def test_a_package_that_does_not_build_is_told_before_anything_is_created(tmp_path):
    with pytest.raises(LaunchError, match="no checkout"):
        package.build(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(LaunchError, match=r"requirements-tpu.lock is missing"):
        package.build(tmp_path)
    (tmp_path / package.LOCK).write_text("")
    with pytest.raises(LaunchError, match="does not build"):
        package.build(tmp_path)


def test_the_wheel_and_the_lock_of_a_training_host_are_what_is_sent():
    staged = package.build()
    (wheel,) = staged.glob("*.whl")
    assert "pipelines/launch/worker.py" in zipfile.ZipFile(wheel).namelist()
    lock = (staged / "requirements.lock").read_text()
    for name in ("jax==", "libtpu==", "orbax-checkpoint==", "gcsfs=="):
        assert f"\n{name}" in lock
    for name in ("tensorflow==", "apache-beam==", "prefect=="):
        assert f"\n{name}" not in lock
    assert package.build() == staged, "the same content has the same name, so that a worker can keep it"


@needs_gcloud
@pytest.mark.slow
def test_the_actions_on_a_slice_that_is_up(launch: Launch, capsys, monkeypatch):
    """up, status, logs, stop, down and list, each as the command."""
    monkeypatch.setattr("pipelines.launch.tpu_pod.build", lambda: launch.package)
    shared = ["--workdir", str(launch.directory), "--shared-dir", str(launch.directory.parent)]
    words = ["--accelerator", "v4-16", "--zones", "us-central1-a", "--direct", "--name", "vdm-test", "--poll", "0.2"]
    assert command.main(["tpu", "up", *words, *shared, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])["slices"]
    assert (found["state"], found["num_workers"]) == ("READY", 2)

    pod = launch.pod(keep=True)
    crew = pod._make_crew()  # takes over what `up` has left
    assert len(launch.api.created) == 1
    crew.start(launch.job(40, "wait"), 1)
    assert command.main(["tpu", "status", "vdm-test"]) == 0
    assert "worker 1: running" in capsys.readouterr().out
    assert command.main(["tpu", "logs", "vdm-test", "--worker", "1", "--zone", "us-central1-a"]) == 0
    assert "from step" in capsys.readouterr().out
    assert command.main(["tpu", "stop", "vdm-test"]) == 0
    assert "worker 1: exited with exit code 75" in capsys.readouterr().out
    assert command.main(["tpu", "down", "vdm-test"]) == 0
    assert launch.api.node_names() == []
    assert command.main(["tpu", "list"]) == 0
    assert "no slices" in capsys.readouterr().out
    assert command.main(["tpu", "status", "vdm-test"]) == 1
    assert "no slice that this project made" in capsys.readouterr().err


@needs_gcloud
@pytest.mark.slow
def test_reap_deletes_what_is_left_over_and_nothing_else(fake: FakeTpu, capsys):
    now = int(time.time())
    mine = {"acceleratorType": "v3-8", "labels": {"vdm-run": "a" * 12, "vdm-expires": str(now + 3600)}}
    late = {"acceleratorType": "v3-8", "labels": {"vdm-run": "b" * 12, "vdm-expires": str(now - 60)}}
    fake.make_ready_node("us-central1-a", "alive", mine)
    fake.make_ready_node("europe-west4-a", "late", late)
    fake.make_ready_node("us-east1-d", "gone", mine)
    fake.make_ready_node("us-east1-d", "others", {"acceleratorType": "v3-8"})
    fake.preempt("gone")
    assert command.main(["tpu", "reap", "--dry-run"]) == 0
    assert len(fake.node_names()) == 4
    assert command.main(["tpu", "reap", "--json"]) == 0
    reaped = json.loads(capsys.readouterr().out.splitlines()[-1])["slices"]
    assert sorted(each["name"] for each in reaped) == ["gone", "late"]
    assert sorted(fake.node_names()) == ["alive", "others"]


@needs_gcloud
@pytest.mark.slow
def test_the_wheel_that_is_sent_trains(fake: FakeTpu, digits_dir, tmp_path, capsys, monkeypatch):
    """The whole way as the user types it: build, create, copy, install by hash, train, delete."""
    monkeypatch.setenv(
        "SIMULATED_ENVIRONMENT", json.dumps({"SIMULATED_PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"})
    )
    shared = tmp_path / "shared"
    shutil.copytree(digits_dir, shared / "digits")
    run = shared / "run"
    words = [
        "tpu", "run", "debug", "--data", str(shared / "digits"), "--workdir", str(run), "--shared-dir", str(shared),
        "--accelerator", "v3-8", "--zones", "us-central1-a", "--poll", "0.5", "--json",
    ]  # fmt: skip
    assert command.main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["stopped"], result["attempts"], result["slices"]) == (False, 1, 1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 6
    assert fake.node_names() == []
    (disk,) = (fake.root / "disks").iterdir()
    calls = (disk / "uv-calls").read_text().splitlines()
    assert [call.split()[:2] for call in calls] == [["venv", "--python"], ["pip", "sync"], ["pip", "install"]]
    (installed,) = disk.glob("vdm-*/venv/lib/pipelines/command.py")
    assert installed.read_bytes() == Path(command.__file__).read_bytes()
