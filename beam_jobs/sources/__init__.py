"""Where images come from: every source can say what it holds and read any range of it."""

import difflib
from collections.abc import Callable

from etils import epath

from beam_jobs.sources.base import Source
from beam_jobs.sources.cifar10 import cifar10_from_files
from beam_jobs.sources.digits import Digits
from beam_jobs.sources.imagenet import open_imagenet
from beam_jobs.sources.swirl import Swirl
from beam_jobs.sources.tfds import cifar10_from_tfds, cifar10_from_tfds_directory, is_tfds_directory
from vdm_lib.errors import ConfigError
from vdm_lib.files.storage import storage_errors

_Opener = Callable[[str | None, int | None], Source]


def _need(dataset: str, source: str | None, what: str) -> str:
    if source is None:
        raise ConfigError(f"{dataset} needs --source: {what}")
    return source


def _open_digits(source: str | None, size: int | None) -> Source:
    if source is not None:
        raise ConfigError("digits comes with scikit-learn and takes no --source")
    return Digits()


def _open_swirl(source: str | None, size: int | None) -> Source:
    if source is not None:
        raise ConfigError("swirl is drawn, it takes no --source")
    return Swirl()


def _open_cifar10(source: str | None, size: int | None) -> Source:
    source = _need("cifar10", source, "an official folder or tar.gz, a prepared TFDS directory, or tfds to download it")
    if source == "tfds":
        return cifar10_from_tfds()
    return cifar10_from_tfds_directory(source) if is_tfds_directory(epath.Path(source)) else cifar10_from_files(source)


def _imagenet(name: str, pixels: int) -> _Opener:
    what = "the folder of its npz or pickle batches, or of its PNGs"
    return lambda source, size: open_imagenet(name, pixels, _need(name, source, what))


def _open_images(source: str | None, size: int | None) -> Source:
    from beam_jobs.sources.pictures import open_images

    source = _need("images", source, "a folder of images")
    if size is None:
        raise ConfigError("images needs --size: height and width to make, such as 64")
    return open_images(source, size)


_OPENERS: dict[str, _Opener] = {
    "cifar10": _open_cifar10,
    "digits": _open_digits,
    "images": _open_images,
    "imagenet32": _imagenet("imagenet32", 32),
    "imagenet64": _imagenet("imagenet64", 64),
    "swirl": _open_swirl,
}


def open_source(dataset: str, source: str | None = None, size: int | None = None) -> Source:
    """Return the source of a data set, its files found and their sizes checked.

    Args:
        dataset: `digits`, `cifar10`, `imagenet32`, `imagenet64`, `images` or `swirl`.
        source: folder or archive, local or gs://; for cifar10 also `tfds` to download it.
        size: height and width, for `images` only.

    Raises:
        ConfigError: unknown data set, or a source or size that is missing or not taken.
        DataError: files that are missing or of the wrong size.
    """
    if dataset not in _OPENERS:
        near = difflib.get_close_matches(dataset, _OPENERS, n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"unknown data set '{dataset}', known are {', '.join(_OPENERS)}{hint}")
    if size is not None and dataset != "images":
        raise ConfigError(f"{dataset} takes no --size")
    with storage_errors(source or dataset):
        return _OPENERS[dataset](source, size)
