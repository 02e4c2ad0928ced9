"""Folders of image files: finding them, decoding them, and the source `images` of any such folder."""

import hashlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from beam_jobs.sources.base import Unreadable
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.records import Record

_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
_FILES_TO_JUDGE_BY = 16
_TEST_SHARE = 10


def _refuse_loop(path: epath.Path) -> None:
    """Raise DataError for a link to a folder that the link lies in: its images would be found again and again."""
    local = Path(path)
    if local.is_symlink() and local.parent.resolve().is_relative_to(local.resolve()):
        raise DataError(f"{path} is a link to a folder that it lies in: remove it")


@lru_cache(maxsize=4)
def list_files(folder: str) -> tuple[str, ...]:
    """Return the paths of all files below a folder, relative to it, sorted; hidden ones are left out.

    Raises:
        DataError: a link leads back to a folder that it lies in.
    """
    found, waiting = [], [epath.Path(folder)]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                _refuse_loop(path)
                waiting.append(path)
            else:
                found.append(os.fspath(path).removeprefix(os.fspath(epath.Path(folder))).lstrip("/"))
    return tuple(sorted(found))


def read_file(path: epath.Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ValueError: it is a link to nothing, or may not be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(f"it cannot be read ({error.strerror or 'no such object'})") from error


def decode(data: bytes, channels: int) -> np.ndarray:
    """Return an image file's pixels, turned as its EXIF data says: uint8 [h, w, channels].

    Raises:
        ValueError: no image, damaged, or grey where colour is wanted or the other way round.
    """
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no image that can be read ({type(error).__name__})") from error
    if "transparency" in image.info:  # a colour of the palette, or one colour, that stands for nothing
        raise ValueError(f"its pixels are {image.mode} with transparency, expected grey or RGB without it")
    if image.mode not in (*_GREY, *_COLOUR):
        raise ValueError(f"its pixels are {image.mode}, expected grey or RGB with 8 bits and no transparency")
    if (image.mode in _GREY) != (channels == 1):
        raise ValueError("it is a grey image in a colour folder" if channels == 3 else "it has colour in a grey folder")
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def crop_and_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Return the central square, each new pixel the mean of the area that it covers: uint8 [size, size, c].

    Raises:
        ValueError: the image is smaller than `size`.
    """
    height, width, channels = image.shape
    side = min(height, width)
    if side < size:
        raise ValueError(f"it has {width}x{height} pixels, fewer than {size}x{size}")
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side].squeeze())
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.BOX)
    return np.asarray(resized).reshape(size, size, channels)


def num_channels(folder: epath.Path, files: tuple[str, ...]) -> int:
    """Return 3 if one of the first readable files has colour, else 1.

    Raises:
        DataError: none of them is an image.
    """
    modes = set()
    for name in files[:_FILES_TO_JUDGE_BY]:
        try:
            with (folder / name).open("rb") as stream:
                modes.add(Image.open(stream).mode)
        except (UnidentifiedImageError, FileNotFoundError, PermissionError, Image.DecompressionBombError):
            continue
    if not modes:
        raise DataError(f"{folder} has no image among its first {_FILES_TO_JUDGE_BY} files")
    return 1 if modes <= set(_GREY) else 3


def _by_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@dataclass(frozen=True)
class ImageFolder:
    """Any folder of images, optionally with class folders inside; cropped to the central square and resized.

    The order is that of the SHA-256 of the names, so that classes are mixed. Without folders `train` and `test`, the
    first tenth in this order is test.

    Attributes:
        folder: local or gs://; the workers list it again, as a list of a million names does not fit into a job.
        has_splits: it has folders `train` and `test`.
    """

    folder: str
    has_splits: bool
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_classes: int
    splits: dict[str, int]
    description: str
    data_version: str = "files of a folder"
    name: str = "images"
    num_levels: int = 256

    def files(self, split: str) -> tuple[str, ...]:
        """Return the paths of a split's images, relative to the folder, in order."""
        return _files_of(self.folder, self.has_splits)[split]

    def read(self, split: str, start: int, stop: int) -> Iterator[Record | Unreadable]:
        """Yield the records of the split with index start to stop - 1.

        Raises:
            DataError: the folder has changed since the job began.
        """
        files = self.files(split)
        if len(files) != self.splits[split]:
            raise DataError(f"{self.folder} has changed: {len(files)} images of {split}, {self.splits[split]} before")
        size, _, channels = self.image_shape
        for index in range(start, stop):
            name = files[index]
            try:
                image = crop_and_resize(decode(read_file(epath.Path(self.folder) / name), channels), size)
            except ValueError as error:
                yield Unreadable(index, f"{name}: {error}")
                continue
            yield Record(image=image, label=self._label(name), index=index)

    def _label(self, name: str) -> int:
        return self.class_names.index(_class_of(name, self.has_splits)) if self.num_classes > 1 else 0


def _class_of(name: str, has_splits: bool) -> str:
    parts = name.split("/")[has_splits:]
    return parts[0] if len(parts) > 1 else ""


@lru_cache(maxsize=4)
def _files_of(folder: str, has_splits: bool) -> dict[str, tuple[str, ...]]:
    names = list_files(folder)
    if has_splits:
        return {split: _in_order(names, f"{split}/") for split in ("train", "test")}
    ordered = _in_order(names, "")
    cut = math.ceil(len(ordered) / _TEST_SHARE)
    return {"train": ordered[cut:], "test": ordered[:cut]}


def _in_order(names: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    return tuple(sorted((name for name in names if name.startswith(prefix)), key=_by_hash))


def open_images(source: str, size: int) -> ImageFolder:
    """Return the images of a folder.

    Args:
        source: local or gs:// folder.
        size: height and width of the images to make.

    Raises:
        ConfigError: a size below one.
        DataError: no such folder, no images in it, or some are in class folders and some are not.
    """
    if size < 1:
        raise ConfigError(f"--size must be at least 1, got {size}")
    folder = epath.Path(source)
    if not folder.is_dir():
        raise DataError(f"{source} is no folder")
    list_files.cache_clear()
    _files_of.cache_clear()
    has_splits = (folder / "train").is_dir() and (folder / "test").is_dir()
    files = _files_of(source, has_splits)
    names = tuple(sorted({_class_of(name, has_splits) for split in files.values() for name in split}))
    if len(names) > 1 and "" in names:
        raise DataError(f"{source}: some images lie in class folders and some do not")
    if min(map(len, files.values())) < 1:
        raise DataError(f"{source} has too few images: {', '.join(f'{len(v)} {k}' for k, v in files.items())}")
    return ImageFolder(
        folder=source,
        has_splits=has_splits,
        image_shape=(size, size, num_channels(folder, files["train"])),
        class_names=names if names != ("",) else ("image",),
        num_classes=max(1, len(names)),
        splits={split: len(paths) for split, paths in files.items()},
        description=f"folder of images, central square, area-resized to {size}x{size}",
    )
