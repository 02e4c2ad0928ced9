"""Where images come from: every source can say what it holds and read any range of it.

A new source is one frozen dataclass with the attributes of `Source` and a `read`; it must pickle, because
Beam sends it to its workers, and give the same record for the same index every time.
"""

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from etils import epath

from vdm_lib.errors import DataError
from vdm_lib.records import Record

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_FOLDER = "cifar-10-batches-bin"
_CIFAR10_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32
_CIFAR10_IMAGES_PER_FILE = 10_000
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Source(Protocol):
    """Images with labels, in splits, in a fixed order.

    Attributes:
        name: name of the data set, as the configs call it.
        image_shape: height, width, channels.
        num_levels: values that one channel of one pixel can take.
        num_classes: labels are 0 to num_classes - 1.
        class_names: one name for each label.
        description: where the images came from, for the manifest; no path of this machine.
        splits: number of images of each split.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int
    class_names: tuple[str, ...]
    description: str
    splits: dict[str, int]

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1, in this order."""
        ...


@lru_cache(maxsize=1)
def _digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_digits  # 2 s to import: only whoever reads the digits pays

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    is_test = np.arange(len(images)) % 5 == 4
    return {
        "train": (images[~is_test], digits.target[~is_test]),
        "test": (images[is_test], digits.target[is_test]),
    }


@dataclass(frozen=True)
class Digits:
    """The 1,797 handwritten digits that come with scikit-learn: 8x8 pixels, 17 grey levels.

    Every image whose place in scikit-learn's order is 4 modulo 5 is a test image.
    """

    name: str = "digits"
    image_shape: tuple[int, int, int] = (8, 8, 1)
    num_levels: int = 17
    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    description: str = "sklearn.datasets.load_digits; test is every image with index % 5 == 4"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 1438, "test": 359})

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1."""
        images, labels = _digits()[split]
        for index in range(start, stop):
            yield Record(image=images[index], label=int(labels[index]), index=index)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10 from its official binary version; the train index runs over data_batch_1 to data_batch_5."""

    folder: str
    name: str = "cifar10"
    image_shape: tuple[int, int, int] = (32, 32, 3)
    num_levels: int = 256
    num_classes: int = 10
    class_names: tuple[str, ...] = _CIFAR10_CLASSES
    description: str = "CIFAR-10, official binary version (cifar-10-batches-bin)"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 50_000, "test": 10_000})

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1.

        Raises:
            DataError: a file ends too early.
        """
        while start < stop:
            file, first = divmod(start, _CIFAR10_IMAGES_PER_FILE)
            count = min(stop - start, _CIFAR10_IMAGES_PER_FILE - first)
            path = epath.Path(self.folder) / _CIFAR10_FILES[split][file]
            with path.open("rb") as stream:
                stream.seek(first * _CIFAR10_RECORD_BYTES)
                data = stream.read(count * _CIFAR10_RECORD_BYTES)
            if len(data) != count * _CIFAR10_RECORD_BYTES:
                raise DataError(f"{path} ends too early: download {CIFAR10_URL} again")
            rows = np.frombuffer(data, np.uint8).reshape(count, _CIFAR10_RECORD_BYTES)
            # The file holds the red, the green and the blue plane one after the other.
            images = rows[:, 1:].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
            for offset in range(count):
                yield Record(image=images[offset], label=int(rows[offset, 0]), index=start + offset)
            start += count


def _cifar10_from_folder(source: str) -> Cifar10:
    """Find the binary version in the folder or in its parent and check that its files have the right size."""
    given = epath.Path(source)
    inner = given / _CIFAR10_FOLDER
    folder = inner if inner.is_dir() else given
    expected = _CIFAR10_RECORD_BYTES * _CIFAR10_IMAGES_PER_FILE
    for files in _CIFAR10_FILES.values():
        for path in (folder / file for file in files):
            if not path.is_file():
                raise DataError(f"{source} has no {path.name}: give the unpacked folder of {CIFAR10_URL}")
            size = path.stat().length
            if size != expected:
                raise DataError(f"{path} has {size} bytes, expected {expected}: download {CIFAR10_URL} again")
    return Cifar10(folder=os.fspath(folder))


def _cifar10_from_tfds() -> Cifar10:
    """Let TFDS download, check and unpack the official archive."""
    import tensorflow_datasets as tfds

    home = epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    archive = tfds.download.checksums.UrlInfo(
        size=170_052_171,
        checksum="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        filename="cifar-10-binary.tar.gz",
    )
    manager = tfds.download.DownloadManager(
        download_dir=home / "downloads",
        url_infos={CIFAR10_URL: archive},
        force_checksums_validation=True,
    )
    try:
        folder = manager.download_and_extract(CIFAR10_URL)
    except Exception as error:
        raise DataError(
            f"TFDS could not download {CIFAR10_URL} ({type(error).__name__}): "
            "download and unpack it yourself and give the folder with --source"
        ) from error
    return _cifar10_from_folder(os.fspath(folder))


def _open_digits(source: str | None) -> Source:
    if source is not None:
        raise DataError("digits comes with scikit-learn and takes no --source")
    return Digits()


def _open_cifar10(source: str | None) -> Source:
    if source is None:
        raise DataError("cifar10 needs --source: a folder with cifar-10-batches-bin, or tfds to download it")
    return _cifar10_from_tfds() if source == "tfds" else _cifar10_from_folder(source)


_OPENERS: dict[str, Callable[[str | None], Source]] = {"cifar10": _open_cifar10, "digits": _open_digits}


def open_source(dataset: str, source: str | None = None) -> Source:
    """Return the source of a data set, its files found and their sizes checked.

    Args:
        dataset: `digits` or `cifar10`.
        source: for cifar10 a folder, local or gs://, with the official binary version, or `tfds` to download.

    Raises:
        DataError: unknown data set, missing source, or files that are missing or of the wrong size.
    """
    if dataset not in _OPENERS:
        near = difflib.get_close_matches(dataset, _OPENERS, n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        raise DataError(f"unknown data set '{dataset}', known are {', '.join(_OPENERS)}{hint}")
    return _OPENERS[dataset](source)
