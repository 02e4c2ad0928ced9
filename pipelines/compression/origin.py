"""What the images of a file of `vdm compress` came as: its list of images, accepted before anything is decoded."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from configs.problems import first_problem
from vdm_lib.errors import RecordError


def _name(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("no name of a file")
    os.fsencode(text)
    return text


def _whole_numbers(text: str) -> str:
    try:
        dtype = np.dtype(text)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if not np.issubdtype(dtype, np.integer):
        raise ValueError("an array that is not of whole numbers")
    return text


_Name = Annotated[str, AfterValidator(_name)]


@dataclass(frozen=True)
class _Pictures:
    kind: Literal["png"]
    names: tuple[_Name, ...]


@dataclass(frozen=True)
class _Array:
    kind: Literal["npy"]
    names: tuple[_Name]
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    dtype: Annotated[str, AfterValidator(_whole_numbers)]


@dataclass(frozen=True)
class _Files:
    kind: Literal["files"]
    files: tuple[Annotated[_Pictures | _Array, Field(discriminator="kind")], ...]


@dataclass(frozen=True)
class _Split:
    name: _Name
    labels: tuple[int, ...]
    indices: tuple[NonNegativeInt, ...] | None


@dataclass(frozen=True)
class _Data:
    kind: Literal["data"]
    manifest: str
    splits: tuple[_Split, ...]


_ADAPTER: TypeAdapter[_Files | _Data] = TypeAdapter(Annotated[_Files | _Data, Field(discriminator="kind")])


def check_origin(origin: Mapping[str, Any], num_images: int, image_shape: tuple[int, int, int]) -> None:
    """Accept the list of images of a file that `vdm compress` can have written.

    Args:
      origin: the list.
      num_images: how many images the file has.
      image_shape: height, width and channels of each.

    Raises:
      RecordError: it does not name as many images as there are, two of one name, a value of another type, or an array
        of another shape.
    """
    try:
        given = _ADAPTER.validate_python(origin)
    except ValidationError as error:
        problem = first_problem(error)
        raise RecordError(f"the list of images was not written by `vdm compress`: {problem}") from error
    if isinstance(given, _Data):
        names = [split.name for split in given.splits]
        sizes = [len(split.labels) for split in given.splits]
        fits = all(split.indices is None or len(split.indices) == len(split.labels) for split in given.splits)
    else:
        names = [name for file in given.files for name in file.names]
        sizes = [file.shape[0] if isinstance(file, _Array) else len(file.names) for file in given.files]
        arrays = [file for file in given.files if isinstance(file, _Array)]
        fits = all(math.prod(file.shape[1:]) == math.prod(image_shape) for file in arrays)
    if not fits:
        raise RecordError(f"the list of images has an array that is not of images of {image_shape}")
    # As places: a.npy and ./a.npy are one file.
    if sum(sizes) != num_images or len({PurePosixPath(name) for name in names}) != len(names):
        raise RecordError(f"the list of images does not name each of {num_images} images once")
