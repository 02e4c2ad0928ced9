import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from etils import epath

from beam_jobs.commit import commit
from beam_jobs.plan import make_plan, tasks_of
from beam_jobs.prepare import MARKER_NAME, prepare
from beam_jobs.shards import fault_of, write_shard
from beam_jobs.sources.base import Unreadable
from beam_jobs.sources.digits import Digits
from beam_jobs.summary import no_summary
from beam_jobs.transforms import build
from pipelines.prepare import run
from tests.beam_jobs.announcement import without_announcement
from tests.shared import shared_path
from vdm_lib.data import load_split
from vdm_lib.errors import ConfigError, DataError, VdmError
from vdm_lib.files.records import Record, read_manifest, read_records

BESIDE_THE_SHARDS = {
    "manifest.json",
    "stats.json",
    "index.html",
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
}


@dataclass(frozen=True)
class Toy:
    """Images of one pixel; `bad` replaces the record of one index of the train split."""

    bad: Record | Unreadable | None = None
    name: str = "toy"
    image_shape: tuple[int, int, int] = (1, 1, 1)
    num_levels: int = 17
    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    description: str = "made up"
    data_version: str = "first"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 25, "test": 5})

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        for index in range(start, stop):
            if self.bad is not None and split == "train" and index == 17:
                yield self.bad
            else:
                yield Record(np.full((1, 1, 1), index % 17, np.uint8), index % 10, index)


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits") / "out"
    prepare(Digits(), directory, num_shards=3)
    return directory


def test_digits_are_read_back_as_they_were(digits_dir):
    for split, count in Digits().splits.items():
        loaded = load_split(digits_dir, split)
        records = list(Digits().read(split, 0, count))
        np.testing.assert_array_equal(loaded.images, [record.image for record in records])
        assert loaded.labels.tolist() == [record.label for record in records]
        assert loaded.num_levels == 17


def test_manifest_tells_the_truth_about_the_files(digits_dir):
    manifest = read_manifest(digits_dir)
    assert (manifest.name, manifest.image_shape, manifest.num_classes) == ("digits", (8, 8, 1), 10)
    names = set(BESIDE_THE_SHARDS)
    for split in manifest.splits.values():
        assert len(split.shards) == 3
        assert sum(shard.num_images for shard in split.shards) == split.num_images
        for shard in split.shards:
            names.add(shard.name)
            data = (digits_dir / shard.name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.num_bytes, shard.sha256)
            indices = [record.index for record in read_records(data)]
            assert indices == sorted(indices)
            assert len(indices) == shard.num_images
    assert set(contents(digits_dir)) == names


def test_fingerprint_follows_its_definition(digits_dir):
    whole = hashlib.sha256()
    for record in Digits().read("test", 0, 359):
        label = np.array(record.label, "<i8").tobytes()
        whole.update(hashlib.sha256(record.image.tobytes() + label).digest())
    assert read_manifest(digits_dir).splits["test"].fingerprint == whole.hexdigest()


def test_two_runs_give_the_same_bytes(digits_dir, tmp_path):
    prepare(Digits(), tmp_path / "again", num_shards=3)
    assert contents(tmp_path / "again") == contents(digits_dir)


@pytest.mark.slow
def test_two_worker_processes_give_the_same_bytes_and_no_noise(digits_dir, tmp_path, capfd):
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    prepare(Digits(), tmp_path / "workers", num_shards=3, pipeline_options=flags)
    assert contents(tmp_path / "workers") == contents(digits_dir)
    assert capfd.readouterr() == ("", "")


def test_the_fingerprint_does_not_depend_on_the_number_of_shards(digits_dir, tmp_path):
    other = prepare(Digits(), tmp_path / "other", num_shards=7)
    for name, split in read_manifest(digits_dir).splits.items():
        assert other.splits[name].fingerprint == split.fingerprint


def test_shards_are_written_alike_in_any_order_and_twice(digits_dir, tmp_path):
    plan = make_plan(Digits(), os.fspath(tmp_path), num_shards=3)
    parts = []
    for task in [*reversed(tasks_of(plan)), tasks_of(plan)[0]]:
        parts.append((task.split, no_summary(plan).add(write_shard(plan, task))))
    commit(plan, parts)
    for path in tmp_path.glob("*.tmp-digests"):  # `prepare` removes them when the commit is done
        path.unlink()
    assert contents(tmp_path) == contents(digits_dir)


def test_limit_keeps_the_first_images_and_no_shard_is_empty(tmp_path):
    result = run("digits", os.fspath(tmp_path / "few"), limit=2, shards=5)
    assert (result.splits, result.num_shards) == ({"train": 2, "test": 2}, 4)
    assert result.name == "digits"
    assert result.images_per_s == pytest.approx(4 / result.seconds)
    loaded = load_split(tmp_path / "few", "train")
    assert loaded.fingerprint == result.fingerprints["train"]
    np.testing.assert_array_equal(loaded.images, [record.image for record in Digits().read("train", 0, 2)])
    assert "first 2 images" in read_manifest(tmp_path / "few").source


def test_counts_below_one_are_refused(tmp_path):
    for arguments in ({"num_shards": 0}, {"limit": 0}, {"num_shards": 100_000}):
        with pytest.raises(ConfigError, match="got "):
            prepare(Toy(), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record(np.zeros((1, 1, 1), np.uint8), 10, 17), "label 10 is outside 0..9"),
        (Record(np.zeros((1, 1, 1), np.uint8), -1, 17), "label -1 is outside 0..9"),
        (Record(np.full((1, 1, 1), 17, np.uint8), 0, 17), "level 17 is outside 0..16"),
        (Record(np.zeros((2, 1, 1), np.uint8), 0, 17), "shape (2, 1, 1), expected (1, 1, 1)"),
    ],
)
def test_a_bad_record_is_named_and_nothing_is_left(tmp_path, record, message):
    with pytest.raises(DataError) as error:
        prepare(Toy(bad=record), tmp_path / "out")
    assert str(error.value).startswith("toy: train image 17: ")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_pixels_of_another_type_are_a_fault():
    record = next(Toy().read("train", 0, 1))
    object.__setattr__(record, "image", record.image.astype(np.int32))
    assert fault_of(record, Toy()) == "the pixels are int32, expected uint8"


def test_an_index_given_twice_is_named(tmp_path):
    twice = Record(np.zeros((1, 1, 1), np.uint8), 0, 16)
    with pytest.raises(DataError, match=r"toy: train image 17: the source does not give this index exactly once"):
        prepare(Toy(bad=twice), tmp_path / "out", num_shards=1)


def test_a_source_that_cannot_be_read(tmp_path):
    @dataclass(frozen=True)
    class Broken(Toy):
        def read(self, split, start, stop):
            raise OSError(errno.EIO, "Input/output error", "source.bin")

    with pytest.raises(DataError, match=r"toy: test .*Input/output error.*source\.bin.* \(4 problems in all\)"):
        prepare(Broken(), tmp_path)
    assert not contents(tmp_path)
    assert tmp_path.exists()


def test_an_interrupt_is_no_error_of_the_job_and_leaves_nothing(tmp_path):
    @dataclass(frozen=True)
    class Interrupted(Toy):
        def read(self, split, start, stop):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Interrupted(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", ["train-00001-of-00002.tfrecord", "manifest.json", MARKER_NAME])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, victim):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device", victim)

    opened = type(epath.Path(tmp_path)).open

    def open_full(self, mode="r", **arguments):
        return Full() if self.name.startswith(victim) and "w" in mode else opened(self, mode, **arguments)

    monkeypatch.setattr("etils.epath.gpath._GPath.open", open_full)
    with pytest.raises(DataError, match="No space left on device") as error:
        prepare(Toy(), tmp_path / "out", num_shards=2)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(VdmError, match=r"is a file|cannot be written"):
            prepare(Toy(), out)


def test_a_complete_directory_is_refused_and_kept(digits_dir):
    before = contents(digits_dir)
    with pytest.raises(ConfigError, match="already holds a complete data set"):
        prepare(Digits(), digits_dir)
    assert contents(digits_dir) == before


@pytest.mark.parametrize("marker", [False, True])
def test_foreign_files_are_refused_and_kept(tmp_path, marker):
    (tmp_path / "train-00000-of-00001.tfrecord").write_bytes(b"not ours, without the marker")
    if marker:
        (tmp_path / MARKER_NAME).write_text("{}")
        (tmp_path / "thesis.txt").write_text("")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"not empty \(it holds t"):
        prepare(Toy(), tmp_path)
    assert contents(tmp_path) == before


KILLED_JOB = """
import contextlib, sys, threading
import beam_jobs.shards as shards
from beam_jobs.prepare import prepare
from beam_jobs.sources.digits import Digits

opened = shards.open_atomically
count = 0

@contextlib.contextmanager
def hang_at_third(path):
    global count
    count += 1
    if count == 3:
        (path.parent / (path.name + ".tmp-0123abcd")).write_bytes(b"half a shard")
        threading.Event().wait()
    with opened(path) as stream:
        yield stream

shards.open_atomically = hang_at_third
prepare(Digits(), sys.argv[1], num_shards=3)
"""


def test_a_killed_job_looks_incomplete_and_a_second_run_completes_it(digits_dir, tmp_path):
    out = tmp_path / "out"
    job = subprocess.Popen([sys.executable, "-c", KILLED_JOB, os.fspath(out)])
    deadline = time.monotonic() + 60
    while not any(".tmp-0123abcd" in path.name for path in out.glob("*")):
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    written = contents(out)
    with pytest.raises(DataError, match="another `vdm prepare` writes into"):
        prepare(Digits(), out, num_shards=3)
    assert contents(out) == written
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert len(list(out.glob("*.tfrecord"))) == 2
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        load_split(out, "train")
    prepare(Digits(), out, num_shards=3)
    assert contents(out) == contents(digits_dir)


def test_a_shard_that_vanishes_before_the_commit_is_a_problem(tmp_path):
    plan = make_plan(Toy(), os.fspath(tmp_path), num_shards=1)
    parts = [(task.split, no_summary(plan).add(write_shard(plan, task))) for task in tasks_of(plan)]
    (tmp_path / "train-00000-of-00001.tfrecord").unlink()
    assert commit(plan, parts) == "problems.json"
    (problem,) = json.loads((tmp_path / "problems.json").read_text())
    assert "was changed by another program" in problem["message"]
    assert commit(plan, parts[1:]) == "problems.json"


def test_digests_that_vanish_before_the_commit_are_a_problem(tmp_path):
    plan = make_plan(Toy(), os.fspath(tmp_path), num_shards=1)
    parts = [(task.split, no_summary(plan).add(write_shard(plan, task))) for task in tasks_of(plan)]
    (tmp_path / "train-00000-of-00001.tfrecord.tmp-digests").unlink()
    assert commit(plan, parts) == "problems.json"


def test_bad_images_are_rejected_up_to_the_number_allowed(tmp_path):
    bad = Toy(bad=Unreadable(17, "a/17.png: no image"))
    manifest = prepare(bad, tmp_path / "out", num_shards=2, max_bad=1)
    (line,) = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line) == {"source": "toy", "split": "train", "index": 17, "reason": "a/17.png: no image"}
    assert (manifest.splits["train"].num_images, manifest.splits["train"].num_rejected) == (24, 1)
    loaded = load_split(tmp_path / "out", "train")
    assert loaded.labels.tolist() == [index % 10 for index in range(25) if index != 17]
    with pytest.raises(DataError, match=r"toy: train image 17: a/17\.png: no image"):
        prepare(bad, tmp_path / "none", max_bad=0)
    assert not (tmp_path / "none").exists()


def test_duplicates_are_counted_and_refused_on_request(tmp_path):
    prepare(Toy(), tmp_path / "out")
    statistics = json.loads((tmp_path / "out" / "stats.json").read_text())
    # The pixel is the index modulo 17: eight of 25 come again, and the five of test are all in train.
    assert statistics["splits"]["train"]["duplicates"] == 8
    assert statistics["splits"]["test"]["duplicates"] == 0
    assert statistics["train_and_test"]["test_images_in_train"] == 5
    with pytest.raises(DataError, match=r"train image 17 has the pixels of train image 0 \(13 duplicates in all\)"):
        prepare(Toy(), tmp_path / "none", fail_on_duplicates=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--runer=FnApiRunner", "Beam has no option --runer"), ("--runner=NoSuchRunner", "the Beam job failed")],
)
def test_a_wrong_flag_is_one_clear_line(tmp_path, flag, message):
    with pytest.raises(ConfigError, match=message) as error:
        prepare(Toy(), tmp_path / "out", pipeline_options=[flag])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_runner_that_says_done_and_does_nothing_is_found_out(tmp_path):
    flags = ["--runner=tests.beam_jobs.noted.IdleRunner"]
    with pytest.raises(DataError, match="ended without writing a manifest: its runner did not run the whole job"):
        prepare(Toy(), tmp_path / "out", pipeline_options=flags)
    assert not (tmp_path / "out").exists()


def test_the_job_is_one_branch_that_ends_in_the_commit(tmp_path):
    """Dask's runner computes what the last node needs and leaves out every other branch."""
    pipeline = beam.Pipeline(FnApiRunner())
    build(pipeline, make_plan(Toy(), os.fspath(tmp_path)))
    transforms = pipeline.to_runner_api().components.transforms.values()
    leaves = [each for each in transforms if not each.subtransforms]
    consumed = {collection for each in leaves for collection in each.inputs.values()}
    ends = [each.unique_name for each in leaves if not consumed & set(each.outputs.values())]
    assert [name.split("/")[:2] for name in ends] == [["Commit", "WriteManifest"]]


PREPARE_AND_DESCRIBE_CIFAR10 = """
import json, sys
import numpy as np
from pipelines.prepare import run
from vdm_lib.data import load_split

result = run("cifar10", sys.argv[2], source=sys.argv[1])
splits = {name: load_split(sys.argv[2], name) for name in result.splits}
print(json.dumps({
    name: {
        "means": (split.images.mean(axis=(0, 1, 2)) / 255).tolist(),
        "counts": np.bincount(split.labels).tolist(),
    }
    for name, split in splits.items()
}))
"""


@pytest.mark.slow  # 60,000 images
def test_the_real_cifar10(tmp_path):
    unpack = shared_path("data", "cifar10", "unpack.py")
    source, out = tmp_path / "source", tmp_path / "out"
    subprocess.run([sys.executable, unpack, source], check=True, capture_output=True)
    # Another process: there the library's calls are not type-checked, which makes it several times faster.
    command = [sys.executable, "-c", PREPARE_AND_DESCRIBE_CIFAR10, source, out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert without_announcement(done.stderr) == ""
    splits = json.loads(done.stdout)
    np.testing.assert_allclose(splits["train"]["means"], [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert splits["train"]["counts"] == [5_000] * 10
    assert splits["test"]["counts"] == [1_000] * 10
    statistics = json.loads((out / "stats.json").read_text())["splits"]["train"]
    np.testing.assert_allclose(statistics["mean"], [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(statistics["std"], [0.2470, 0.2435, 0.2616], atol=5e-5)
    assert statistics["class_counts"] == [5_000] * 10
    assert (statistics["min_level"], statistics["max_level"]) == ([0] * 3, [255] * 3)
