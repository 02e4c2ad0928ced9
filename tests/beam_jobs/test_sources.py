import importlib
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from beam_jobs import sources
from beam_jobs.prepare import prepare
from beam_jobs.sources import open_source
from beam_jobs.sources.cifar10 import CIFAR10_URL, Cifar10
from beam_jobs.sources.digits import Digits
from vdm_lib.data import load_split
from vdm_lib.errors import ConfigError, DataError

FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
RECORD_BYTES = 3073


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Lay out a folder like CIFAR-10's: sparse files of the right size, a few records of them filled in."""
    parent = tmp_path_factory.mktemp("cifar")
    folder = parent / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate(FILES):
        with (folder / name).open("wb") as stream:
            stream.truncate(10_000 * RECORD_BYTES)
            stream.write(record_bytes(label=number))
            stream.seek(9_999 * RECORD_BYTES)
            stream.write(record_bytes(label=9))
    return parent


def record_bytes(label):
    red, green, blue = (np.arange(1024) % 251 + plane for plane in range(3))
    return bytes([label]) + np.concatenate([red, green, blue]).astype(np.uint8).tobytes()


def test_digits_are_those_of_scikit_learn():
    source = Digits()
    digits = load_digits()
    assert source.splits == {"train": 1438, "test": 359}
    train = list(source.read("train", 0, 1438))
    test = list(source.read("test", 0, 359))
    assert [record.index for record in train] == list(range(1438))
    assert [record.index for record in test] == list(range(359))
    np.testing.assert_array_equal([record.image[..., 0] for record in test], digits.images[4::5])
    assert [record.label for record in test] == digits.target[4::5].tolist()
    np.testing.assert_array_equal(train[4].image[..., 0], digits.images[5])
    assert max(record.image.max() for record in train) == source.num_levels - 1
    assert train[0].image.dtype == np.uint8
    assert [record.index for record in source.read("train", 7, 9)] == [7, 8]


def test_cifar10_is_found_in_the_folder_or_its_parent(cifar):
    inner = cifar / "cifar-10-batches-bin"
    assert open_source("cifar10", os.fspath(cifar)) == Cifar10(folder=os.fspath(inner))
    assert open_source("cifar10", os.fspath(inner)) == Cifar10(folder=os.fspath(inner))


def test_cifar10_planes_become_height_width_channel(cifar):
    source = open_source("cifar10", os.fspath(cifar))
    (record,) = source.read("train", 20_000, 20_001)
    assert (record.label, record.index, record.image.shape) == (2, 20_000, (32, 32, 3))
    assert record.image[0, 5].tolist() == [5, 6, 7]
    assert record.image[1, 0].tolist() == [32, 33, 34]
    (record,) = source.read("test", 0, 1)
    assert record.label == 5


def test_cifar10_reads_across_files(cifar):
    records = list(open_source("cifar10", os.fspath(cifar)).read("train", 9_999, 10_002))
    assert [(record.index, record.label) for record in records] == [(9_999, 9), (10_000, 1), (10_001, 0)]


def test_cifar10_file_that_shrinks_while_it_is_read(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(RECORD_BYTES))
    with pytest.raises(DataError, match=r"test_batch\.bin ends too early"):
        list(Cifar10(folder=os.fspath(tmp_path)).read("test", 0, 2))


def test_cifar10_missing_and_wrong_files(tmp_path):
    with pytest.raises(DataError, match=r"has no data_batch_1\.bin: give cifar-10-batches-bin"):
        open_source("cifar10", os.fspath(tmp_path))
    for name in FILES:
        (tmp_path / name).write_bytes(b"")
        os.truncate(tmp_path / name, 10_000 * RECORD_BYTES - (name == "data_batch_3.bin"))
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 30729999 bytes, expected 30730000"):
        open_source("cifar10", os.fspath(tmp_path))


def test_tfds_downloads_the_checked_archive(cifar, monkeypatch):
    asked = {}

    class Manager:
        def __init__(self, **arguments):
            asked.update(arguments)

        def download_and_extract(self, url):
            asked["url"] = url
            return cifar

    monkeypatch.setattr(tfds.download, "DownloadManager", Manager)
    source = open_source("cifar10", "tfds")
    assert source.folder == os.fspath(cifar / "cifar-10-batches-bin")
    assert asked["url"] == CIFAR10_URL
    published = Path(tfds.__file__).parent / "url_checksums" / "cifar10.txt"
    info = asked["url_infos"][CIFAR10_URL]
    assert f"{CIFAR10_URL}\t{info.size}\t{info.checksum}" in published.read_text()
    assert asked["force_checksums_validation"]


def test_tfds_without_a_network_says_what_to_do(monkeypatch):
    def fail(self, url):
        raise ConnectionError(url)

    monkeypatch.setattr(tfds.download, "DownloadManager", lambda **_: type("M", (), {"download_and_extract": fail})())
    with pytest.raises(DataError, match=r"\(ConnectionError\): download it yourself"):
        open_source("cifar10", "tfds")


def test_the_source_that_the_readme_shows(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(# beam_jobs/sources/checkers\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "checkers.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("checkers")
    line = re.search(r'`"checkers": (lambda source, size: Checkers\(\)),`', text)
    monkeypatch.setitem(sources._OPENERS, "checkers", eval(line[1], vars(module)))
    manifest = prepare(open_source("checkers"), tmp_path / "out")
    assert (manifest.name, manifest.splits["train"].num_images) == ("checkers", 100)
    split = load_split(tmp_path / "out", "test")
    assert split.labels.tolist() == [0, 1] * 5
    assert split.images[1, :2, :2, 0].tolist() == [[1, 0], [0, 1]]


def test_sources_pickle(cifar):
    for source in (Digits(), open_source("cifar10", os.fspath(cifar))):
        assert pickle.loads(pickle.dumps(source)) == source
        assert len(source.class_names) == source.num_classes


@pytest.mark.parametrize(
    ("dataset", "source", "message"),
    [
        (
            "cifar",
            None,
            "unknown data set 'cifar', known are cifar10, digits, images, imagenet32, imagenet64, swirl: "
            "did you mean 'cifar10'?",
        ),
        ("xyz", None, "unknown data set 'xyz', known are cifar10, digits, images, imagenet32, imagenet64, swirl"),
        ("cifar10", None, "cifar10 needs --source"),
        ("digits", "somewhere", "takes no --source"),
    ],
)
def test_what_open_source_refuses(dataset, source, message):
    with pytest.raises(ConfigError) as error:
        open_source(dataset, source)
    assert message in str(error.value)
