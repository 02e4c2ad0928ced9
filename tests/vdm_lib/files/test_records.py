import dataclasses
import hashlib
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vdm_lib.errors import DataError, RecordError
from vdm_lib.files import records as records_module
from vdm_lib.files.records import (
    Manifest,
    Record,
    ShardInfo,
    SplitInfo,
    decode_example,
    encode_example,
    fingerprint,
    frame,
    image_digest,
    is_shard_name,
    read_frames,
    read_manifest,
    read_records,
    shard_name,
    write_manifest,
)

RECORD = Record(image=np.array([[[1], [2]], [[3], [255]]], np.uint8), label=7, index=300)
# image: 1, 2, 3, 255; index: 300 (the varint ac02); label: 7; shape: 2, 2, 1.
GOLDEN = bytes.fromhex(
    "0a460a110a05696d61676512080a060a04010203ff0a0f0a05696e64657812061a040a02ac02"
    "0a0e0a056c6162656c12051a030a01070a100a05736861706512071a050a03020201"
)
MANIFEST = Manifest(
    name="toy",
    source="made up",
    image_shape=(2, 2, 1),
    num_levels=256,
    num_classes=10,
    class_names=("a", "b"),
    splits={"train": SplitInfo(1, "a" * 64, (ShardInfo("train-00000-of-00001.tfrecord", 1, 9, "b" * 64),))},
)

records = st.builds(
    Record,
    image=npst.arrays(np.uint8, npst.array_shapes(min_dims=3, max_dims=3, max_side=5)),
    label=st.integers(-(2**63), 2**63 - 1),
    index=st.integers(0, 2**63 - 1),
)


def same(left: Record, right: Record) -> bool:
    return (left.label, left.index) == (right.label, right.index) and np.array_equal(left.image, right.image)


@pytest.fixture(scope="module")
def tf():
    import tensorflow  # 10 s: no other module of the tests imports it

    return tensorflow


def test_golden_example():
    assert encode_example(RECORD) == GOLDEN
    assert same(decode_example(GOLDEN), RECORD)


def test_golden_frame():
    # The CRC-32C of 32 zero bytes is 8a9136aa (RFC 3720, B.4), masked as TFRecord does.
    masked = ((0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8) % 2**32
    assert frame(bytes(32))[12:] == bytes(32) + struct.pack("<I", masked)
    assert frame(bytes(32))[:8] == struct.pack("<Q", 32)


def test_tensorflow_reads_and_writes_the_same_bytes(tf, tmp_path):
    example = tf.train.Example.FromString(GOLDEN)
    assert example.SerializeToString(deterministic=True) == GOLDEN
    assert example.features.feature["image"].bytes_list.value[0] == RECORD.image.tobytes()
    path = tmp_path / "theirs.tfrecord"
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for _ in range(3):
            writer.write(example.SerializeToString())  # in whatever order of the features
    assert all(same(record, RECORD) for record in read_records(path.read_bytes()))
    ours = tmp_path / "ours.tfrecord"
    ours.write_bytes(frame(GOLDEN) + frame(GOLDEN))
    assert [item.numpy() for item in tf.data.TFRecordDataset(os.fspath(ours))] == [GOLDEN, GOLDEN]
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "shape": tf.io.FixedLenFeature([3], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "index": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_single_example(GOLDEN, features)
    assert parsed["shape"].numpy().tolist() == [2, 2, 1]
    assert (parsed["label"].numpy(), parsed["index"].numpy()) == (7, 300)


def test_unpacked_numbers_other_order_and_unknown_features_are_read():
    def field(tag: int, payload: bytes) -> bytes:
        return bytes([tag, len(payload)]) + payload

    def entry(name: bytes, feature: bytes) -> bytes:
        return field(0x0A, field(0x0A, name) + field(0x12, feature))

    shape = field(0x1A, b"\x08\x02\x08\x02\x08\x01")  # three fields of one number each
    entries = (
        entry(b"shape", shape),
        entry(b"note", field(0x12, field(0x0A, bytes(8)))),
        entry(b"label", field(0x1A, b"\x08\x07")),
        entry(b"image", field(0x0A, field(0x0A, RECORD.image.tobytes()))),
        entry(b"index", field(0x1A, field(0x0A, b"\xac\x02"))),
    )
    assert same(decode_example(field(0x0A, b"".join(entries))), RECORD)


@given(records)
def test_example_round_trip(record):
    assert same(decode_example(encode_example(record)), record)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_frames_round_trip(payloads):
    assert list(read_frames(b"".join(map(frame, payloads)))) == payloads


@given(st.binary(max_size=60))
def test_garbage_is_a_record_error(data):
    with pytest.raises(RecordError):
        decode_example(data)


@settings(max_examples=300)
@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 255))
def test_a_changed_example_decodes_or_is_a_record_error(at, value):
    try:
        decode_example(GOLDEN[:at] + bytes([value]) + GOLDEN[at + 1 :])
    except RecordError as error:
        assert str(error)


@pytest.mark.parametrize("name", ["image", "index", "label", "shape"])
def test_a_missing_feature_is_named(name):
    with pytest.raises(RecordError, match=f"'{name}' is missing"):
        decode_example(GOLDEN.replace(name.encode(), b"other"))


def test_a_wrong_shape_is_an_error():
    with pytest.raises(RecordError, match=r"4 bytes, which do not fill shape \[2, 2, 2\]"):
        decode_example(GOLDEN[:-1] + b"\x02")


def test_every_flipped_bit_is_caught_and_its_record_named():
    shard = frame(GOLDEN) + frame(GOLDEN)
    for bit in range(8 * len(shard)):
        damaged = bytearray(shard)
        damaged[bit // 8] ^= 1 << bit % 8
        number = bit // 8 // (len(shard) // 2)
        with pytest.raises(RecordError, match=f"^record {number} is "):
            list(read_frames(bytes(damaged)))


def test_every_truncation_inside_a_record_is_caught():
    shard = frame(GOLDEN) + frame(GOLDEN)
    for size in set(range(1, len(shard))) - {len(shard) // 2}:
        number = size // (len(shard) // 2)
        with pytest.raises(RecordError, match=f"^record {number} is truncated"):
            list(read_frames(shard[:size]))


def test_a_frame_that_holds_no_example_names_its_record():
    with pytest.raises(RecordError, match=r"^record 1 is malformed: feature 'image' is missing"):
        list(read_records(frame(GOLDEN) + frame(b"")))


def test_shard_names():
    assert shard_name("train", 3, 16) == "train-00003-of-00016.tfrecord"
    assert is_shard_name("train-00003-of-00016.tfrecord")
    assert not is_shard_name("train-00003-of-00016.tfrecord.bak")
    assert not is_shard_name("train.tfrecord")


def test_fingerprint_is_the_documented_one():
    image, label = RECORD.image.tobytes(), RECORD.label
    digest = hashlib.sha256(image + np.array(label, "<i8").tobytes()).digest()
    assert image_digest(image, label) == digest
    assert fingerprint([digest, digest]) == hashlib.sha256(digest + digest).hexdigest()


def test_manifest_round_trip_leaves_no_temporary_file(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_missing_manifest_says_what_to_do(tmp_path):
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"has no manifest\.json: run `vdm prepare"):
            read_manifest(place)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 3}', b'{"splits": {}}'],
    ids=lambda data: data[:10],
)
def test_a_damaged_manifest_is_a_data_error(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(tmp_path)


def written(tmp_path, change):
    """Write a manifest with a change of its fields and the checksum that then belongs to them."""
    fields = json.loads(json.dumps(dataclasses.asdict(MANIFEST)))
    change(fields)
    (tmp_path / "manifest.json").write_text(json.dumps(fields | {"sha256": records_module._checksum(fields)}))


def at(*path_and_value):
    *path, key, value = path_and_value

    def change(fields):
        for step in path:
            fields = fields[step]
        fields[key] = value

    return change


SPLIT = ("splits", "train")
SHARD = (*SPLIT, "shards", 0)


def test_an_unchanged_manifest_is_read(tmp_path):
    written(tmp_path, lambda fields: None)
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    "path_and_value",
    [
        *(("num_levels", value) for value in (1, 257, 17.5, "256", True, None)),
        *(("image_shape", value) for value in ([8, 8], [8, 8, 0], [-8, -8, 1], [8, 8, 1.0], "8x8x1", None)),
        *(("num_classes", value) for value in (0, -1, "10")),
        *(("class_names", value) for value in (None, [1, 2])),
        *(("splits", value) for value in (None, [], {"train": None}, {"train": []})),
        *((*SPLIT, "num_images", value) for value in (-1, 0, "1", 2**63)),
        *((*SPLIT, "num_rejected", value) for value in (-1, None)),
        *((*SPLIT, "fingerprint", value) for value in (None, "", "A" * 64)),
        *((*SPLIT, "shards", value) for value in (None, "x", [1], [{}])),
        *((*SHARD, "name", value) for value in ("../../secret", "/etc/passwd", "", None, 5, "a\0b")),
        *((*SHARD, "num_images", value) for value in (-5, "9")),
        *((*SHARD, "num_bytes", value) for value in (-5, "9", None)),
    ],
    ids=str,
)
def test_a_field_of_a_wrong_type_or_value_is_a_data_error(tmp_path, path_and_value):
    written(tmp_path, at(*path_and_value))
    with pytest.raises(DataError, match=r"manifest\.json is damaged .*: prepare the data again") as error:
        read_manifest(tmp_path)
    assert "checksum" not in str(error.value)


@pytest.mark.parametrize("path_and_value", [("num_levels", 17), (*SPLIT, "num_rejected", 3), ("name", "other")])
def test_an_edited_manifest_is_a_data_error(tmp_path, path_and_value):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    fields = json.loads(path.read_text())
    at(*path_and_value)(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(DataError, match="its checksum does not fit: it was edited or damaged"):
        read_manifest(tmp_path)


def test_another_schema_version_is_a_data_error(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    with pytest.raises(DataError, match="schema version 1, this program reads 3"):
        read_manifest(tmp_path)
