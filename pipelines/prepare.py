"""The job `vdm prepare`: a named data set to a data directory."""

import time
from collections.abc import Sequence
from functools import partial

from beam_jobs.prepare import prepare, read_statistics
from beam_jobs.sources import open_source
from pipelines.progress import tell
from pipelines.results import PrepareResult


def run(
    dataset: str,
    out: str,
    *,
    source: str | None = None,
    shards: int | None = None,
    limit: int | None = None,
    size: int | None = None,
    max_bad: int = 0,
    fail_on_duplicates: bool = False,
    runner_args: Sequence[str] = (),
) -> PrepareResult:
    """Prepare a data set: check every image, write sharded TFRecords and a manifest.

    Args:
        dataset: `digits`, `cifar10`, `imagenet32`, `imagenet64`, `images` or `swirl`.
        out: data directory to write, local or gs://.
        source: folder or archive, local or gs://; for cifar10 also `tfds` to download it.
        shards: files of each split; None chooses by the number of images.
        limit: keep the first so many images of each split.
        size: height and width, for `images` only.
        max_bad: so many bad images go to `rejects.jsonl` before the job fails.
        fail_on_duplicates: an image that occurs twice is an error.
        runner_args: Beam's own flags; without `--runner` the job runs on FnApiRunner.

    Raises:
        ConfigError: unknown data set, a source or size that is missing, a number out of its range.
        DataError: bad source, bad record, or an output directory that cannot be used.
    """
    start = time.perf_counter()
    manifest = prepare(
        open_source(dataset, source, size),
        out,
        num_shards=shards,
        limit=limit,
        max_bad=max_bad,
        fail_on_duplicates=fail_on_duplicates,
        pipeline_options=runner_args,
        say=partial(tell, "prepare"),
    )
    seconds = time.perf_counter() - start
    statistics = read_statistics(out)
    splits = {name: split.num_images for name, split in manifest.splits.items()}
    return PrepareResult(
        data_dir=out,
        name=manifest.name,
        splits=splits,
        num_shards=sum(len(split.shards) for split in manifest.splits.values()),
        fingerprints={name: split.fingerprint for name, split in manifest.splits.items()},
        seconds=seconds,
        images_per_s=sum(splits.values()) / seconds,
        rejected={name: split.num_rejected for name, split in manifest.splits.items()},
        duplicates={name: values["duplicates"] for name, values in statistics["splits"].items()},
        test_images_in_train=statistics.get("train_and_test", {}).get("test_images_in_train"),
    )
