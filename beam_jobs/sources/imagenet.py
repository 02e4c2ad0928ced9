"""ImageNet at 32x32 or 64x64: the batches of the new release, or a folder of PNGs as the old release has them.

Bits per dimension on the two releases are not comparable: they were made smaller by different filters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from etils import epath

from beam_jobs.sources.arrays import from_planes, npz_rows, npz_shape, unpickle
from beam_jobs.sources.base import Source, Unreadable
from beam_jobs.sources.pictures import decode, list_files, read_file
from vdm_lib.errors import DataError
from vdm_lib.files.records import Record

NEW_RELEASE = "new release of image-net.org (batches, Chrabaszcz et al. 2017)"
OLD_RELEASE = "old release of image-net.org/small (PNGs, van den Oord et al. 2016)"
_OLD_COUNTS = {"train": 1_281_149, "test": 49_999}
_NUM_CLASSES = 1000
_ROWS_AT_ONCE = 1024


@lru_cache(maxsize=1)
def _load_pickle(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels of a batch; it is kept, as a pickle can only be read whole."""
    values = unpickle(epath.Path(path).read_bytes(), path)
    if not isinstance(values.get("data"), np.ndarray) or len(values.get("labels", ())) != len(values["data"]):
        raise DataError(f"{path} does not hold images and their labels: download it again")
    return values["data"], np.asarray(values["labels"], np.int64)


def _shape(path: epath.Path) -> tuple[int, ...]:
    return npz_shape(path, "data") if path.name.endswith(".npz") else _load_pickle(str(path))[0].shape


@dataclass(frozen=True)
class ImageNetBatches:
    """The batches train_data_batch_1, 2, ... and val_data; their labels 1 to 1000 become 0 to 999.

    Attributes:
        folder: local or gs://.
        batches: for each split, file name and number of images.
    """

    folder: str
    batches: dict[str, tuple[tuple[str, int], ...]]
    name: str
    image_shape: tuple[int, int, int]
    splits: dict[str, int]
    description: str
    data_version: str = NEW_RELEASE
    num_levels: int = 256
    num_classes: int = _NUM_CLASSES
    class_names: tuple[str, ...] = tuple(f"class {number}" for number in range(1, _NUM_CLASSES + 1))

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1."""
        before = 0
        for file, count in self.batches[split]:
            first, last = max(start - before, 0), min(stop - before, count)
            for row in range(first, last, _ROWS_AT_ONCE):
                pixels, labels = self._rows(file, row, min(row + _ROWS_AT_ONCE, last))
                for offset, image in enumerate(from_planes(pixels, self.image_shape[0])):
                    yield Record(image=image, label=int(labels[offset]) - 1, index=before + row + offset)
            before += count

    def _rows(self, file: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        path = epath.Path(self.folder) / file
        if file.endswith(".npz"):
            return npz_rows(path, "data", first, last), npz_rows(path, "labels", first, last)
        pixels, labels = _load_pickle(str(path))
        return pixels[first:last], labels[first:last]


@dataclass(frozen=True)
class ImageNetPictures:
    """Folders of PNGs without labels (every label is 0), in the order of their names.

    Attributes:
        folders: folder of each split, local or gs://.
    """

    folders: dict[str, str]
    name: str
    image_shape: tuple[int, int, int]
    splits: dict[str, int]
    description: str
    data_version: str
    num_levels: int = 256
    num_classes: int = 1
    class_names: tuple[str, ...] = ("image",)

    def read(self, split: str, start: int, stop: int) -> Iterator[Record | Unreadable]:
        """Yield the records of the split with index start to stop - 1."""
        folder, size = self.folders[split], self.image_shape[0]
        names = list_files(folder)
        for index in range(start, min(stop, len(names))):
            try:
                image = decode(read_file(epath.Path(folder) / names[index]), 3)
                if image.shape != self.image_shape:
                    raise ValueError(f"it has {image.shape[1]}x{image.shape[0]} pixels, expected {size}x{size}")
            except ValueError as error:
                yield Unreadable(index, f"{names[index]}: {error}")
                continue
            yield Record(image=image, label=0, index=index)


def _number_of(name: str) -> int:
    digits = name.removesuffix(".npz").rsplit("_", 1)[-1]
    return int(digits) if digits.isdigit() else 0


def _open_batches(folder: epath.Path, name: str, size: int) -> Source | None:
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (_number_of(name), name))
    files = {
        "train": [name for name in names if name.startswith("train_data_batch_")],
        "test": [name for name in names if name in ("val_data", "val_data.npz")],
    }
    if not files["train"]:
        return None
    if not files["test"]:
        raise DataError(f"{folder} has no val_data.npz: put it beside the train batches")
    batches = {}
    for split, members in files.items():
        counts = []
        for member in members:
            shape = _shape(folder / member)
            if len(shape) != 2 or shape[1] != 3 * size * size:
                raise DataError(f"{folder / member} has rows of {shape[1:]} values, {name} has {3 * size * size}")
            counts.append((member, shape[0]))
        batches[split] = tuple(counts)
    return ImageNetBatches(
        folder=str(folder),
        batches=batches,
        name=name,
        image_shape=(size, size, 3),
        splits={split: sum(count for _, count in counts) for split, counts in batches.items()},
        description=f"ImageNet {size}x{size}, batches in the order of their numbers; val_data is test",
    )


def open_imagenet(name: str, size: int, source: str) -> Source:
    """Return ImageNet from a folder of batches or of PNGs.

    Args:
        name: `imagenet32` or `imagenet64`.
        size: 32 or 64.
        source: folder with train_data_batch_* and val_data (npz or pickle), or with folders of PNGs named
            train_32x32 and valid_32x32, or train and val.

    Raises:
        DataError: neither is there, or a batch is of another size.
    """
    folder = epath.Path(source)
    if not folder.is_dir():
        raise DataError(f"{source} is no folder")
    batches = _open_batches(folder, name, size)
    if batches is not None:
        return batches
    for train, test in ((f"train_{size}x{size}", f"valid_{size}x{size}"), ("train", "val")):
        if (folder / train).is_dir() and (folder / test).is_dir():
            list_files.cache_clear()
            folders = {"train": str(folder / train), "test": str(folder / test)}
            splits = {split: len(list_files(path)) for split, path in folders.items()}
            is_old = "_" in train or splits == _OLD_COUNTS
            return ImageNetPictures(
                folders=folders,
                name=name,
                image_shape=(size, size, 3),
                splits=splits,
                description=f"ImageNet {size}x{size}, PNGs in the order of their names, no labels",
                data_version=OLD_RELEASE if is_old else "PNGs of an unknown release",
            )
    raise DataError(
        f"{source} has neither train_data_batch_1.npz nor the folders train_{size}x{size} and valid_{size}x{size}"
    )
