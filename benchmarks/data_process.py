"""What the data bench runs as a process of its own, to see its memory; each prints one line of JSON.

usage: python -m benchmarks.data_process prepare SOURCE OUT | tfds SOURCE OUT | synthetic NUM_IMAGES OUT |
  tf_data OUT ROUNDS
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.prepare import prepare
from pipelines.prepare import run as run_prepare
from vdm_lib.data import load_split
from vdm_lib.files.records import Record


@dataclass(frozen=True)
class Synthetic:
    """Random images of 32x32x3, five sixths of them train."""

    splits: dict[str, int]
    name: str = "synthetic"
    image_shape: tuple[int, int, int] = (32, 32, 3)
    num_levels: int = 256
    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    description: str = "random bytes"
    data_version: str = "1"

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        """Yield the records of the split with index start to stop - 1."""
        for index in range(start, stop):
            pixels = np.random.Philox(key=index).random_raw(32 * 32 * 3 // 8).view(np.uint8)
            yield Record(image=pixels.reshape(self.image_shape), label=index % 10, index=index)


def ours(source: str, out: str) -> dict[str, float]:
    """Return images/s of `vdm prepare cifar10`, the import of Beam included."""
    return {"images_per_s": run_prepare("cifar10", out, source=source).images_per_s}


def synthetic(num_images: str, out: str) -> dict[str, float]:
    """Prepare so many random images; their memory is what is asked for."""
    train = int(num_images) * 5 // 6
    prepare(Synthetic({"train": train, "test": int(num_images) - train}), out)
    return {}


def tfds(source: str, out: str) -> dict[str, float]:
    """Return images/s of TFDS building its own cifar10 from the same files, the import of TensorFlow left out."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow_datasets

    class Manager:
        def download_and_extract(self, url: str) -> str:
            return str(Path(source).parent)

    base = tensorflow_datasets.builder_cls("cifar10")
    with tensorflow_datasets.core.registered.skip_registration():

        class LocalCifar10(base):
            name = "cifar10"

            def _split_generators(self, dl_manager: Any) -> Any:
                return super()._split_generators(Manager())

    builder = LocalCifar10(data_dir=out)
    start = time.perf_counter()
    builder.download_and_prepare()
    seconds = time.perf_counter() - start
    return {"images_per_s": sum(split.num_examples for split in builder.info.splits.values()) / seconds}


def tf_data(out: str, rounds: str) -> dict[str, list[float]]:
    """Return the seconds of reading train by `load_split` and by tf.data, in each round the best of six each."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    files = sorted(map(str, Path(out).glob("train-*.tfrecord")))

    def parse(batch: Any) -> Any:
        examples = tf.io.parse_example(batch, spec)
        return tf.io.decode_raw(examples["image"], tf.uint8), examples["label"]

    def read(batch_size: int, files_at_once: int | None) -> None:
        records = tf.data.TFRecordDataset(files, num_parallel_reads=files_at_once)
        examples = records.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
        np.concatenate([images.numpy() for images, _ in examples])

    settings = [(batch_size, files_at_once) for batch_size in (256, 1024, 4096) for files_at_once in (None, 2)]
    # Turn by turn, so that other work on the machine slows both; a round that is not counted warms both up. Best
    # against best: other work only adds.
    ours, theirs = [], []
    for _ in range(int(rounds) + 1):
        of_round = [(_seconds(lambda: load_split(out, "train")), _seconds(partial(read, *each))) for each in settings]
        ours.append(min(us for us, _ in of_round))
        theirs.append(min(them for _, them in of_round))
    return {"tf_data": theirs[1:], "load_split": ours[1:]}


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    # By its own name: what is defined in __main__ would be pickled by value.
    from benchmarks import data_process

    name, *words = sys.argv[1:]
    print(json.dumps(getattr(data_process, {"prepare": "ours"}.get(name, name))(*words)))
