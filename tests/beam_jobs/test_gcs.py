import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "pipelines.command"]
LOAD = "import sys; from vdm_lib.data import load_split; print(load_split(sys.argv[1], 'train').fingerprint)"


def run(gcs, *words, program=None):
    """Run in another process: gcsfs keeps its connections and settings for the life of one."""
    environment = os.environ | gcs.environment()
    return subprocess.run([*(program or COMMAND), *words], env=environment, capture_output=True, text=True, check=False)


def test_a_bucket_that_is_busy_at_first_holds_the_bytes_of_a_local_directory(gcs, digits_dir):
    gcs.store.failures = [("GET", 503), ("POST", 503)]
    done = run(gcs, "prepare", "digits", "--out", "gs://bucket/data/digits", "--json")
    assert gcs.store.failures == []
    assert (done.returncode, done.stderr) == (0, "")
    stored = gcs.store.objects["bucket"]
    for path in Path(digits_dir).iterdir():
        assert stored.pop(f"data/digits/{path.name}") == path.read_bytes()
    assert stored == {}


def test_train_reads_a_bucket_and_a_complete_one_is_kept(gcs, digits_dir):
    for path in Path(digits_dir).iterdir():
        gcs.store.put("bucket", f"digits/{path.name}", path.read_bytes())
    loaded = run(gcs, "gs://bucket/digits", program=[sys.executable, "-c", LOAD])
    manifest = json.loads(gcs.store.objects["bucket"]["digits/manifest.json"])
    assert loaded.stdout.strip() == manifest["splits"]["train"]["fingerprint"]
    before = dict(gcs.store.objects["bucket"])
    done = run(gcs, "prepare", "digits", "--out", "gs://bucket/digits")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "already holds a complete data set" in done.stderr
    assert gcs.store.objects["bucket"] == before


def test_pictures_are_read_from_a_bucket(gcs, tmp_path):
    for number in range(12):
        data = io.BytesIO()
        Image.new("RGB", (9, 8), (number, 0, 255)).save(data, "PNG")
        gcs.store.put("bucket", f"photos/{number}.png", data.getvalue())
    done = run(
        gcs, "prepare", "images", "--source", "gs://bucket/photos", "--size", "4", "--out", str(tmp_path / "out")
    )
    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name: split["num_images"] for name, split in manifest["splits"].items()} == {"train": 10, "test": 2}


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "no valid credentials for Google Cloud"), (403, "refuses access")],
)
def test_a_refusal_is_one_line_and_nothing_is_written(gcs, status, message):
    gcs.store.always = status
    done = run(gcs, "prepare", "digits", "--out", "gs://bucket/digits")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert message in done.stderr
    assert gcs.store.objects["bucket"] == {}
