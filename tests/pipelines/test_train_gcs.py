"""Training with its run directory in a bucket: the emulator answers as Cloud Storage does."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.pipelines.rows import without_speed
from vdm_lib.metrics import read_metrics

WORKDIR = "gs://bucket/runs/a"


def train(gcs, digits_dir, *words: str, workdir: str = WORKDIR) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.command", "train", "debug", *words, "--data", digits_dir]
    environment = os.environ | gcs.environment() | {
        "TENSORSTORE_GCS_HTTP_URL": gcs.url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
    }  # fmt: skip
    return subprocess.run(
        [*command, "--workdir", workdir], env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def rows_of(data: bytes, tmp_path) -> list[dict[str, float]]:
    (tmp_path / "metrics.jsonl").write_bytes(data)
    return read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.slow  # starts training four times
@pytest.mark.timeout(600)
def test_a_run_in_a_bucket_goes_on_bit_for_bit(gcs, digits_dir, tmp_path):
    objects = gcs.store.objects["bucket"]
    done = train(gcs, digits_dir, "train.steps=3")
    assert done.returncode == 0, done.stderr
    assert {"runs/a/config.json", "runs/a/provenance.json", "runs/a/metrics.jsonl"} <= set(objects)
    assert any(name.startswith("runs/a/tensorboard/events") and data for name, data in objects.items())
    assert any(name.startswith("runs/a/checkpoints/3/state/") for name in objects)
    assert "runs/a/.lock" not in objects

    # The lock of a run that died is taken over; a checkpoint that is damaged is set aside.
    gcs.store.put("bucket", "runs/a/.lock", json.dumps({"holder": "process 1 on b", "renewed": 0.0}).encode())
    done = train(gcs, digits_dir)
    assert done.returncode == 0, done.stderr
    assert "runs/a/.lock" not in objects
    local = train(gcs, digits_dir, workdir=str(tmp_path / "local"))
    assert local.returncode == 0, local.stderr
    whole = read_metrics(tmp_path / "local" / "metrics.jsonl")
    rows = rows_of(objects["runs/a/metrics.jsonl"], tmp_path)
    assert [without_speed(row) for row in rows] == [without_speed(row) for row in whole]

    damaged = max((name for name in objects if name.startswith("runs/a/checkpoints/6/state/")),
                  key=lambda name: len(objects[name]))  # fmt: skip
    content = bytearray(objects[damaged])
    content[len(content) // 2] ^= 16
    gcs.store.put("bucket", damaged, bytes(content))
    done = train(gcs, digits_dir)
    assert done.returncode == 0, done.stderr
    assert "moved to gs://bucket/runs/a/checkpoints-damaged/6" in done.stderr.replace("gs:/b", "gs://b")
    assert any(name.startswith("runs/a/checkpoints-damaged/6/state/") for name in objects)
    rows = rows_of(objects["runs/a/metrics.jsonl"], tmp_path)
    assert [without_speed(row) for row in rows] == [without_speed(row) for row in whole]


def test_a_bucket_in_use_or_without_rights_is_one_line(gcs, digits_dir):
    held = {"holder": "process 1 on another-host", "renewed": time.time()}
    gcs.store.put("bucket", "runs/a/.lock", json.dumps(held).encode())
    done = train(gcs, digits_dir)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "another process trains in gs://bucket/runs/a (process 1 on another-host, last seen" in done.stderr
    assert set(gcs.store.objects["bucket"]) == {"runs/a/.lock"}
    gcs.store.always = 403
    done = train(gcs, digits_dir)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "refuses access" in done.stderr
