"""What others read our directories with: TFDS and tf.data."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vdm_lib.data import load_split

READ = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

folder = sys.argv[1]
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
print(json.dumps(read))
"""


@pytest.fixture(scope="module")
def read(digits_dir):
    done = subprocess.run([sys.executable, "-c", READ, digits_dir], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("split", ["train", "test"])
def test_tfds_gives_images_and_labels(read, digits_dir, split):
    ours = load_split(digits_dir, split)
    np.testing.assert_array_equal(read[split]["images"], ours.images)
    assert read[split]["labels"] == ours.labels.tolist()
    assert read["names"] == list("0123456789")


def test_tf_data_reads_by_the_stated_features(read, digits_dir):
    ours = load_split(digits_dir, "test").images
    np.testing.assert_array_equal(read["pixels"], ours.reshape(len(ours), -1))
