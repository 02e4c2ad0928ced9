import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.beam_jobs.announcement import without_announcement

COMMAND = [sys.executable, "-m", "pipelines.command"]


def run(gcs, *words, program=None):
    """Run in another process: gcsfs keeps its connections and settings for the life of one."""
    environment = os.environ | gcs.environment()
    return subprocess.run([*(program or COMMAND), *words], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # waits as the client does when it is turned away
def test_a_bucket_that_is_busy_at_first_holds_the_bytes_of_a_local_directory(gcs, digits_dir):
    gcs.store.failures = [("GET", 503), ("POST", 503)]
    done = run(gcs, "prepare", "digits", "--out", "gs://bucket/data/digits", "--json")
    assert gcs.store.failures == []
    assert (done.returncode, without_announcement(done.stderr)) == (0, "")
    stored = gcs.store.objects["bucket"]
    for path in Path(digits_dir).iterdir():
        assert stored.pop(f"data/digits/{path.name}") == path.read_bytes()
    assert stored == {}


def upload(gcs, folder, prefix):
    for path in Path(folder).rglob("*"):
        if path.is_file():
            gcs.store.put("bucket", f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.mark.slow  # compiling the step takes longer than all other tests of this module
def test_training_reads_a_bucket(gcs, digits_dir, tmp_path):
    upload(gcs, digits_dir, "digits")
    words = ("train", "debug", "train.steps=1", "--data", "gs://bucket/digits", "--workdir", str(tmp_path / "run"))
    done = run(gcs, *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 1


LOAD = "import sys; from vdm_lib.data import load_split; print(load_split(sys.argv[1], 'train').fingerprint)"


def test_a_split_is_loaded_from_a_bucket_and_a_complete_one_is_kept(gcs, digits_dir):
    upload(gcs, digits_dir, "digits")
    before = dict(gcs.store.objects["bucket"])
    loaded = run(gcs, "gs://bucket/digits", program=[sys.executable, "-c", LOAD])
    assert loaded.stdout.strip() == json.loads(before["digits/manifest.json"])["splits"]["train"]["fingerprint"]
    done = run(gcs, "prepare", "digits", "--out", "gs://bucket/digits")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "already holds a complete data set" in done.stderr
    assert gcs.store.objects["bucket"] == before


DIGESTS_OF_SOURCES = """
import hashlib, json, sys
from beam_jobs.sources import cifar10, open_source

root, known = sys.argv[1], json.loads(sys.argv[2])
cifar10._IMAGES_PER_FILE, cifar10.ARCHIVES = 100, known
places = {"cifar-10-batches-bin": "cifar10", "cifar-10-batches-py": "cifar10", "binary.tar.gz": "cifar10",
          "python.tar.gz": "cifar10", "npz": "imagenet32", "pictures": "imagenet32"}
for place, name in places.items():
    source = open_source(name, f"{root}/{place}")
    digest = hashlib.sha256()
    for record in [*source.read("train", 1, 3), *source.read("test", 0, 2)]:
        digest.update(record.image.tobytes() + bytes([record.label, record.index]))
    print(place, digest.hexdigest())
"""


@pytest.mark.slow  # two processes that read six sources each
def test_every_source_is_read_from_a_bucket(gcs, cifar10_versions, tmp_path):
    folders, archives = cifar10_versions
    root = folders["binary"].parent
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    others = tmp_path / "others"
    for folder, batch in (("train_32x32", "train_data_batch_1"), ("valid_32x32", "val_data")):
        (others / "pictures" / folder).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(others / "pictures" / folder / f"{number}.png")
        (others / "npz").mkdir(exist_ok=True)
        np.savez(others / "npz" / batch, data=images.reshape(3, -1), labels=[1, 2, 3])
    for name in ("npz", "pictures"):
        if not (root / name).exists():
            shutil.copytree(others / name, root / name)
    upload(gcs, root, "sources")
    known = json.dumps({hashlib.md5(path.read_bytes()).hexdigest(): version for version, path in archives.items()})
    program = [sys.executable, "-c", DIGESTS_OF_SOURCES]
    here, there = (run(gcs, place, known, program=program) for place in (str(root), "gs://bucket/sources"))
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    assert here.stdout == there.stdout
    assert len(set(here.stdout.split()[1:8:2])) == 1


def test_pictures_are_read_from_a_bucket(gcs, tmp_path):
    for number in range(12):
        data = io.BytesIO()
        Image.new("RGB", (9, 8), (number, 0, 255)).save(data, "PNG")
        gcs.store.put("bucket", f"photos/{number}.png", data.getvalue())
    done = run(
        gcs, "prepare", "images", "--source", "gs://bucket/photos", "--size", "4", "--out", str(tmp_path / "out")
    )
    assert (done.returncode, without_announcement(done.stderr)) == (0, "")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name: split["num_images"] for name, split in manifest["splits"].items()} == {"train": 10, "test": 2}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "no valid credentials for Google Cloud"),
        (403, "refuses access"),
        (404, "gs://bucket/digits cannot be written: there is no such bucket"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(gcs, status, message):
    gcs.store.always = status
    done = run(gcs, "prepare", "digits", "--out", "gs://bucket/digits")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert message in done.stderr
    assert gcs.store.objects["bucket"] == {}
