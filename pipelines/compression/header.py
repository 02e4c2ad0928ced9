"""What a file of `vdm compress` says about how it was made, read back with every value checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from configs.problems import first_problem
from vdm_lib.errors import RecordError

BINS_PER_STD = 16
MOST_STEPS = 100_000
MOST_IMAGES_A_BATCH = 2**16 - 1


@dataclass(frozen=True)
class Settings:
    """What an encoder chooses and a decoder must follow."""

    steps: Annotated[PositiveInt, Field(le=MOST_STEPS)]
    """T."""
    batch_size: Annotated[PositiveInt, Field(le=MOST_IMAGES_A_BATCH)]
    """Images that go through the chain together."""
    first_batch: Annotated[PositiveInt, Field(le=MOST_IMAGES_A_BATCH)]
    """Images of the first batch of a chunk."""
    images_per_call: Annotated[tuple[Annotated[PositiveInt, Field(le=MOST_IMAGES_A_BATCH)], ...], Field(min_length=1)]
    """Images that go through the network together, in calls of different sizes with the largest first."""
    bins_per_std: Annotated[PositiveInt, Field(le=2**16)] = BINS_PER_STD
    """Parts of a standard deviation that latents are told in."""


@dataclass(frozen=True)
class MadeWith:
    """The model of a file."""

    path: str
    step: int
    digest: str
    name: str


@dataclass(frozen=True)
class Header:
    """What a decoder needs of a file beside its chunks."""

    model: MadeWith
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    settings: Settings
    computing: dict[str, Any]
    """Versions and kinds of what computed the code."""
    probe: str
    """Digest of what the network gives there for fixed latents."""
    num_images: int
    chunks: tuple[tuple[PositiveInt, PositiveInt], ...]
    """Images and bytes of each."""


_ADAPTER = TypeAdapter(Header)


def read_header(values: Mapping[str, Any], file: str) -> Header:
    """Return the header of a file.

    Raises:
      RecordError: `vdm compress` did not write it: names what is wrong first.
    """
    try:
        header = _ADAPTER.validate_python(values)
    except ValidationError as error:
        problem = first_problem(error)
        raise RecordError(f"{file} was not written by `vdm compress`: its header's {problem}") from error
    scheme, remote, _ = header.model.path.partition("://")
    if remote and scheme != "gs":
        raise RecordError(f"{file} names a model at {header.model.path!r}: only local paths and gs:// can be read")
    if max(header.settings.images_per_call) > header.settings.batch_size:
        raise RecordError(f"{file} was not written by `vdm compress`: calls of more images than a batch has")
    if any(count > MOST_IMAGES_A_BATCH * size for count, size in header.chunks):
        raise RecordError(f"{file} was not written by `vdm compress`: a chunk has more images than its bytes can tell")
    listed = sum(count for count, _ in header.chunks)
    if listed != header.num_images:
        raise RecordError(f"{file} was not written by `vdm compress`: {header.num_images} images, {listed} in chunks")
    return header
