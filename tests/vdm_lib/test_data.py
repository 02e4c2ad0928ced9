import dataclasses
import hashlib

import numpy as np
import pytest

from vdm_lib.data import load_split
from vdm_lib.errors import DataError, RecordError
from vdm_lib.files.records import (
    Manifest,
    Record,
    ShardInfo,
    SplitInfo,
    encode_example,
    fingerprint,
    frame,
    image_digest,
    read_manifest,
    shard_name,
    write_manifest,
)

IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
LABELS = [0, 1, 0, 1, 1]


def write_toy(directory, shards=((0, 1, 2), (3, 4)), images=IMAGES, image_shape=(2, 3, 1)):
    """Write a data directory whose shards hold these indices, in this order."""
    infos = []
    for number, indices in enumerate(shards):
        name = shard_name("train", number, len(shards))
        examples = (encode_example(Record(images[i % 5], LABELS[i % 5], i)) for i in indices)
        data = b"".join(map(frame, examples))
        (directory / name).write_bytes(data)
        infos.append(ShardInfo(name, len(indices), len(data), hashlib.sha256(data).hexdigest()))
    digests = [image_digest(image.tobytes(), label) for image, label in zip(IMAGES, LABELS, strict=True)]
    split = SplitInfo(5, fingerprint(digests), tuple(infos))
    manifest = Manifest("toy", "made up", image_shape, 30, 2, ("even", "odd"), {"train": split})
    write_manifest(directory, manifest)
    return manifest


def test_images_come_in_the_order_of_the_index(tmp_path):
    manifest = write_toy(tmp_path, shards=((0,), (1, 2, 3, 4)))
    split = load_split(tmp_path, "train")
    np.testing.assert_array_equal(split.images, IMAGES)
    assert split.labels.tolist() == LABELS
    assert (split.name, split.num_levels) == ("train", 30)
    assert split.fingerprint == manifest.splits["train"].fingerprint


def test_every_flipped_bit_names_the_shard_and_the_record(tmp_path):
    write_toy(tmp_path)
    path = tmp_path / "train-00001-of-00002.tfrecord"
    shard = path.read_bytes()
    for at in range(len(shard)):
        damaged = bytearray(shard)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        number = at // (len(shard) // 2)
        with pytest.raises(RecordError, match=f"train-00001-of-00002.tfrecord: record {number} is damaged"):
            load_split(tmp_path, "train")


def test_every_truncation_names_the_shard(tmp_path):
    write_toy(tmp_path)
    path = tmp_path / "train-00001-of-00002.tfrecord"
    shard = path.read_bytes()
    for size in range(len(shard)):
        path.write_bytes(shard[:size])
        with pytest.raises(DataError, match=r"train-00001-of-00002\.tfrecord"):
            load_split(tmp_path, "train")
    path.write_bytes(shard + shard)
    with pytest.raises(DataError, match=r"train-00001-of-00002.tfrecord has \d+ bytes, the manifest says"):
        load_split(tmp_path, "train")
    path.unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002\.tfrecord is missing"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (((0, 1, 2), (2, 4)), "00001-of-00002.tfrecord: record 0 has index 2 after 2, of 5"),
        (((0, 1, 2), (3, 5)), "record 1 has index 5 after 3, of 5"),
        (((0, 1, 2), (4,)), "record 0 has index 4 after 2, of 5"),
        (((0, 2, 1), (3, 4)), "record 1 has index 2 after 0, of 5"),
        (((0, 1, 2), (3,)), "train has 4 images, the manifest says 5"),
        (((0, 1, 2), (3, 4, 5)), "record 2 has index 5 after 4|record 0 is one too many"),
    ],
)
def test_wrong_indices(tmp_path, shards, message):
    write_toy(tmp_path, shards=shards)
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "train")


def test_other_images_have_another_fingerprint(tmp_path):
    write_toy(tmp_path, images=IMAGES[::-1])
    with pytest.raises(DataError, match="another fingerprint than its manifest"):
        load_split(tmp_path, "train")


def test_other_shapes_and_counts_than_the_manifest(tmp_path):
    manifest = write_toy(tmp_path, image_shape=(3, 2, 1))
    with pytest.raises(DataError, match=r"record 0 has shape \(2, 3, 1\), the manifest says \(3, 2, 1\)"):
        load_split(tmp_path, "train")
    split = manifest.splits["train"]
    shards = tuple(dataclasses.replace(shard, num_images=4) for shard in split.shards)
    counts = dataclasses.replace(split, shards=shards)
    write_manifest(tmp_path, dataclasses.replace(manifest, image_shape=(2, 3, 1), splits={"train": counts}))
    with pytest.raises(DataError, match=r"has 3 records in \d+ bytes, the manifest says 4"):
        load_split(tmp_path, "train")


def test_unknown_split_and_missing_manifest(tmp_path):
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        load_split(tmp_path, "train")
    write_toy(tmp_path)
    assert list(read_manifest(tmp_path).splits) == ["train"]
    with pytest.raises(DataError, match="has no split 'test', it has: train"):
        load_split(tmp_path, "test")
