"""What others read our directories with: TFDS and tf.data."""

import json
import subprocess
import sys

import numpy as np
import pytest

from beam_jobs.prepare import prepare
from beam_jobs.sources import cifar10, open_source
from tests.beam_jobs.conftest import IMAGES_PER_FILE
from vdm_lib.data import load_split

READ = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from beam_jobs.sources import open_source

folder, cifar10 = sys.argv[1:]
builder = tfds.builder_from_directory(folder)
read = {}
for split in ("train", "test"):
    examples = sorted(tfds.as_numpy(builder.as_dataset(split=split)), key=lambda example: example["index"])
    read[split] = {
        "images": np.stack([example["image"] for example in examples]).tolist(),
        "labels": [int(example["label"]) for example in examples],
    }
spec = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "shape": tf.io.FixedLenFeature([3], tf.int64),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "index": tf.io.FixedLenFeature([], tf.int64),
}
files = sorted(tf.io.gfile.glob(folder + "/test-*.tfrecord"))
batches = tf.data.TFRecordDataset(files).batch(100).map(lambda batch: tf.io.parse_example(batch, spec))
pixels = [tf.io.decode_raw(batch["image"], tf.uint8).numpy().tolist() for batch in batches]
read["pixels"] = [row for batch in pixels for row in batch]
read["names"] = builder.info.features["label"].names
source = open_source("cifar10", cifar10)
records = [*source.read("train", 0, 4), *source.read("train", 4, 60), *source.read("test", 29, 31)]
read["source"] = [(record.index, record.label, record.image.tobytes().hex()) for record in records]
print(json.dumps(read))
"""


@pytest.fixture(scope="module")
def cifar10_dir(cifar10_versions, tmp_path_factory):
    """What TFDS prepared, or could have: 60 images of each split in three files."""
    out = tmp_path_factory.mktemp("tfds") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "_IMAGES_PER_FILE", IMAGES_PER_FILE)
        prepare(open_source("cifar10", str(cifar10_versions[0]["binary"])), out, num_shards=3, limit=60)
    return str(out)


@pytest.fixture(scope="module")
def read(digits_dir, cifar10_dir):
    """Load TensorFlow in one process for all tests, and return what it has read."""
    command = [sys.executable, "-c", READ, digits_dir, cifar10_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow  # TFDS writes a data set of its own
def test_a_prepared_tfds_directory_is_a_source(read, cifar10_dir):
    ours = {split: load_split(cifar10_dir, split) for split in ("train", "test")}
    expected = [("train", index) for index in range(60)] + [("test", 29), ("test", 30)]
    assert read["source"] == [
        [index, int(ours[split].labels[index]), ours[split].images[index].tobytes().hex()] for split, index in expected
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_tfds_gives_images_and_labels(read, digits_dir, split):
    ours = load_split(digits_dir, split)
    np.testing.assert_array_equal(read[split]["images"], ours.images)
    assert read[split]["labels"] == ours.labels.tolist()
    assert read["names"] == list("0123456789")


def test_tf_data_reads_by_the_stated_features(read, digits_dir):
    ours = load_split(digits_dir, "test").images
    np.testing.assert_array_equal(read["pixels"], ours.reshape(len(ours), -1))
