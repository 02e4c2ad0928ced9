"""CIFAR-10 from its official versions: binary or python, unpacked or as the tar.gz; all give the same records."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from etils import epath

from beam_jobs.sources.arrays import from_planes, md5_of, tar_member, unpickle
from vdm_lib.errors import DataError
from vdm_lib.files.records import Record

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVES = {
    "c32a1d4ab5d03f1284b67883e8d87530": "binary",
    "c58f30108f718f92721af3b95e74349a": "python",
}
"""Which version a tar.gz holds, by its published MD5."""
_FOLDERS = {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}
_FILES = {
    "binary": {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    "python": {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
}
_RECORD_BYTES = 1 + 3 * 32 * 32
_IMAGES_PER_FILE = 10_000


@lru_cache(maxsize=2)
def _load_python_batch(folder: str, archive: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels uint8 [10000, 3072] and labels int64 [10000]."""
    data = tar_member(archive, name, _all_files("python")) if archive else (epath.Path(folder) / name).read_bytes()
    values = unpickle(data, name)
    pixels, labels = values.get("data"), values.get("labels")
    wrong = not isinstance(pixels, np.ndarray) or pixels.shape != (_IMAGES_PER_FILE, _RECORD_BYTES - 1)
    if wrong or len(labels or ()) != _IMAGES_PER_FILE or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{name} does not hold 10,000 images of 32x32x3 and their labels: download it again")
    return pixels, np.array(labels, np.int64)  # type: ignore[return-value]


def _all_files(version: str) -> tuple[str, ...]:
    return tuple(name for names in _FILES[version].values() for name in names)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10; the train index runs over data_batch_1 to data_batch_5.

    Attributes:
        folder: folder of the unpacked files, empty if they are in an archive.
        archive: the tar.gz, empty if the files are unpacked.
        version: `binary` or `python`.
    """

    folder: str = ""
    archive: str = ""
    version: str = "binary"
    name: str = "cifar10"
    image_shape: tuple[int, int, int] = (32, 32, 3)
    num_levels: int = 256
    num_classes: int = 10
    class_names: tuple[str, ...] = CIFAR10_CLASSES
    description: str = "CIFAR-10, official files, in their order"
    data_version: str = "CIFAR-10 (Krizhevsky 2009)"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 50_000, "test": 10_000})

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1.

        Raises:
            DataError: a file ends too early or is damaged.
        """
        while start < stop:
            file, first = divmod(start, _IMAGES_PER_FILE)
            last = min(first + stop - start, _IMAGES_PER_FILE)
            name = _FILES[self.version][split][file]
            if self.version == "python":
                pixels, labels = (part[first:last] for part in _load_python_batch(self.folder, self.archive, name))
            else:
                rows = self._binary_rows(name, first, last)
                pixels, labels = rows[:, 1:], rows[:, 0]
            for offset, image in enumerate(from_planes(pixels, 32)):
                yield Record(image=image, label=int(labels[offset]), index=start + offset)
            start += last - first

    def _binary_rows(self, name: str, first: int, last: int) -> np.ndarray:
        size = (last - first) * _RECORD_BYTES
        if self.archive:
            member = tar_member(self.archive, name, _all_files("binary"))
            data = member[first * _RECORD_BYTES : last * _RECORD_BYTES]
        else:
            with (epath.Path(self.folder) / name).open("rb") as stream:
                stream.seek(first * _RECORD_BYTES)
                data = stream.read(size)
        if len(data) != size:
            raise DataError(f"{self.archive or self.folder}: {name} ends too early: download {CIFAR10_URL} again")
        return np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)


def _from_archive(path: epath.Path) -> Cifar10:
    checksum = md5_of(path)
    if checksum not in ARCHIVES:
        known = ", ".join(f"{value} ({version})" for value, version in ARCHIVES.items())
        raise DataError(f"{path} has MD5 {checksum}, the official archives have {known}: download {CIFAR10_URL} again")
    return Cifar10(archive=os.fspath(path), version=ARCHIVES[checksum])


def cifar10_from_folder(source: str) -> Cifar10:
    """Return CIFAR-10 from a folder with either version, or the parent of such a folder.

    Raises:
        DataError: a file is missing or has the wrong size.
    """
    given = epath.Path(source)
    for version, inner in _FOLDERS.items():
        for folder in (given / inner, given):
            present = [name for name in _all_files(version) if (folder / name).is_file()]
            if not present:
                continue
            for name in _all_files(version):
                if name not in present:
                    raise DataError(f"{source} has no {name}: unpack {CIFAR10_URL} again")
                size, expected = (folder / name).stat().length, _RECORD_BYTES * _IMAGES_PER_FILE
                if version == "binary" and size != expected:
                    raise DataError(
                        f"{folder / name} has {size} bytes, expected {expected}: download {CIFAR10_URL} again"
                    )
            return Cifar10(folder=os.fspath(folder), version=version)
    raise DataError(
        f"{source} has no data_batch_1.bin: give cifar-10-batches-bin, cifar-10-batches-py, their tar.gz "
        f"(for example {CIFAR10_URL}) or a prepared TFDS directory"
    )


def cifar10_from_files(source: str) -> Cifar10:
    """Return CIFAR-10 from an official tar.gz, local or gs://, or from a folder.

    Raises:
        DataError: missing or damaged files, or an archive with another MD5.
    """
    path = epath.Path(source)
    if path.is_file():
        return _from_archive(path)
    if not path.exists():
        raise DataError(f"{source} does not exist: download {CIFAR10_URL}")
    return cifar10_from_folder(source)
