"""Data sets that TensorFlow Datasets has prepared or can download; only this module loads TensorFlow."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from etils import epath

from beam_jobs.sources.base import Source
from beam_jobs.sources.cifar10 import CIFAR10_CLASSES, CIFAR10_URL, cifar10_from_folder
from vdm_lib.errors import DataError
from vdm_lib.files.records import Record


def _builder(folder: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:
        raise DataError(f"{folder} is no directory that TFDS prepared ({str(error).splitlines()[0]})") from error


@dataclass(frozen=True)
class TfdsDirectory:
    """A directory with dataset_info.json and features `image` and `label`; the index is the order of its files."""

    folder: str
    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    description: str
    data_version: str
    splits: dict[str, int]
    num_levels: int = 256

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1."""
        import tensorflow_datasets as tfds

        # One file after the other: in parallel the order would be another one for another range.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        wanted = tfds.core.ReadInstruction(split, from_=start, to=stop, unit="abs")
        examples = _builder(self.folder).as_dataset(split=wanted, read_config=config, shuffle_files=False)
        for offset, example in enumerate(tfds.as_numpy(examples)):
            yield Record(image=example["image"], label=int(example["label"]), index=start + offset)


def is_tfds_directory(path: epath.Path) -> bool:
    """Say whether TFDS has prepared this directory."""
    return (path / "dataset_info.json").is_file()


def cifar10_from_tfds_directory(folder: str) -> Source:
    """Return CIFAR-10 from a prepared TFDS directory, such as .../cifar10/3.0.2.

    Raises:
        DataError: TFDS cannot read it, or it holds something else.
    """
    info = _builder(folder).info
    splits = {split: int(info.splits[split].num_examples) for split in ("train", "test") if split in info.splits}
    shape = tuple(info.features["image"].shape) if "image" in info.features else ()
    if info.name != "cifar10" or shape != (32, 32, 3) or len(splits) != 2:
        raise DataError(f"{folder} holds {info.name} {shape}, expected cifar10 with train and test")
    return TfdsDirectory(
        folder=folder,
        name="cifar10",
        image_shape=(32, 32, 3),
        num_classes=10,
        class_names=CIFAR10_CLASSES,
        description="CIFAR-10 as TFDS prepared it, in the order of its files",
        data_version=f"CIFAR-10 (Krizhevsky 2009), TFDS {info.version}",
        splits=splits,
    )


def cifar10_from_tfds() -> Source:
    """Let TFDS download, check and unpack the official archive.

    Raises:
        DataError: no network, or another file than expected.
    """
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
            "download it yourself and give the file with --source"
        ) from error
    return cifar10_from_folder(os.fspath(folder))
