"""What `vdm compress` takes: a prepared data directory, NPY arrays, PNGs and folders of them, in any number."""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from vdm_lib.config import DataConfig
from vdm_lib.data import load_split
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.records import MANIFEST_NAME, read_manifest, read_records
from vdm_lib.files.storage import storage_errors

_MODES = {1: "L", 3: "RGB"}
# Of a PNG: the signature, the length and name of its first chunk, width and height stand before the bits of a sample.
_BIT_DEPTH_AT = 24
_NO_PICTURE = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombWarning,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Given:
    """Images, and what they came as."""

    images: UInt8[np.ndarray, "n h w c"]
    origin: dict[str, Any]
    left_out: tuple[str, ...] = ()
    """Files in folders that are no PNGs."""


def read_given(places: Sequence[str], like: DataConfig) -> Given:
    """Return the images of all places in order, levels as they are.

    Raises:
      ConfigError: a data directory together with others, or two files of one name.
      DataError: what cannot be read, or images that the model is not for.
    """
    for place in places:
        with storage_errors(place):
            if (epath.Path(place) / MANIFEST_NAME).exists():
                if len(places) > 1:
                    raise ConfigError(f"{place} is a data directory: compress it alone")
                return _data_directory(place, like)
    parts: list[np.ndarray] = []
    files: list[dict[str, Any]] = []
    left_out: list[str] = []
    for place in places:
        with storage_errors(place):
            _read_place(epath.Path(place), like, parts, files, left_out)
    names = [name for file in files for name in file["names"]]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise ConfigError(f"two files are named {min(twice)}: compress them apart")
    return Given(np.concatenate(parts), {"kind": "files", "files": files}, tuple(left_out))


def _read_place(
    path: epath.Path,
    like: DataConfig,
    parts: list[np.ndarray],
    files: list[dict[str, Any]],
    left_out: list[str],
) -> None:
    if path.is_dir():
        found: list[epath.Path] = []
        for each in sorted(_files(path)):
            if each.suffix.lower() == ".png":
                found.append(each)
            else:
                left_out.append(str(each))
        if not found:
            raise DataError(f"{path} holds no PNG and no {MANIFEST_NAME}")
        parts.append(np.stack([_png(each, like) for each in found]))
        files.append({"kind": "png", "names": [each.relative_to(path).as_posix() for each in found]})
    elif path.suffix.lower() == ".npy":
        array = _npy(path)
        images = array[..., None] if array.ndim == 3 and like.image_shape[2] == 1 else array
        _check(images, like, str(path))
        parts.append(images.astype(np.uint8))
        files.append({"kind": "npy", "names": [path.name], "shape": list(array.shape), "dtype": array.dtype.str})
    elif path.exists() and path.suffix.lower() != ".png":
        raise DataError(f"{path} is no PNG and no NPY array: only those come back as they were")
    else:
        parts.append(_png(path, like)[None])
        files.append({"kind": "png", "names": [path.name]})


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        # A link to a folder may lead back here: it is named as left out.
        if path.is_dir() and not Path(path).is_symlink():
            yield from _files(path)
        else:
            yield path


def _npy(path: epath.Path) -> np.ndarray:
    try:
        array = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (ValueError, EOFError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is no array of whole numbers that can be read: {error}") from error
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{path} holds no array of whole numbers")
    return array


def _png(path: epath.Path, like: DataConfig) -> UInt8[np.ndarray, "h w c"]:
    mode = _MODES.get(like.image_shape[2])
    if mode is None:
        raise DataError(f"{path}: images of {like.image_shape[2]} channels are no PNGs, give an NPY array")
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                picture.load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except _NO_PICTURE as error:
        raise DataError(f"{path} is no PNG that can be read ({type(error).__name__})") from error
    if picture.mode != mode:
        raise DataError(f"{path} has pixels of mode {picture.mode}, the model is for {mode}")
    if lost := _lost(picture, data):
        raise DataError(f"{path} has {lost}: only opaque PNGs of one frame and 8 bits come back as they were")
    pixels = np.asarray(picture).reshape(picture.height, picture.width, len(mode))
    _check(pixels[None], like, str(path))
    return pixels


def _lost(picture: Image.Image, data: bytes) -> str:
    """Return what Pillow does not give of a PNG, without a word; empty if nothing."""
    frames = getattr(picture, "n_frames", 1)
    parts = [f"samples of {data[_BIT_DEPTH_AT]} bits"] if data[_BIT_DEPTH_AT] != 8 else []
    parts += [f"{frames} frames"] if frames > 1 else []
    parts += ["transparency"] if "transparency" in picture.info else []
    return " and ".join(parts)


def _check(images: np.ndarray, like: DataConfig, place: str) -> None:
    if images.ndim != 4 or images.shape[1:] != like.image_shape or not len(images):
        raise DataError(f"{place} has shape {images.shape}, the model is for images of {like.image_shape}")
    if not 0 <= images.min() <= images.max() < like.num_levels:
        raise DataError(
            f"{place} has levels {images.min()} to {images.max()}, the model is for 0 to {like.num_levels - 1}"
        )


def _data_directory(place: str, like: DataConfig) -> Given:
    manifest = read_manifest(place)
    parts: list[np.ndarray] = []
    splits: list[dict[str, Any]] = []
    for name, info in sorted(manifest.splits.items()):
        split = load_split(place, name)
        _check(split.images, like, f"{name} of {place}")
        parts.append(split.images)
        indices = None
        if info.num_rejected:
            shards = [(epath.Path(place) / shard.name).read_bytes() for shard in info.shards]
            indices = [record.index for data in shards for record in read_records(data)]
        splits.append({"name": name, "labels": split.labels.tolist(), "indices": indices})
    text = (epath.Path(place) / MANIFEST_NAME).read_text()
    return Given(np.concatenate(parts), {"kind": "data", "manifest": text, "splits": splits})
