"""The flow vdm-preprocess: a data set to sharded TFRecords, by Beam here or on Dataflow."""

import json
from typing import Any

from etils import epath
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.job import run_job, vdm
from flows.parameters import slug
from flows.places import stop_leftovers
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.records import Manifest, read_manifest, write_atomically

OPTIONS_NAME = "flow-options.json"


@flow(name="vdm-preprocess", on_cancellation=[stop_leftovers], on_crashed=[stop_leftovers])
def vdm_preprocess(
    dataset: str = "digits",
    source: str | None = None,
    out: str | None = None,
    shards: int | None = None,
    limit: int | None = None,
    runner: str | None = None,
    beam_options: list[str] | None = None,
) -> Any:
    """Prepare a data set, unless the data directory holds just this already.

    Args:
      dataset: Name of the data set, such as digits or cifar10.
      source: Where its images are: a directory, or tfds to download; digits needs none.
      out: Data directory to make, local or gs://; default data/DATASET.
      shards: Files of each split; by default chosen by the number of images.
      limit: Keep the first so many images of each split.
      runner: Beam runner, such as DataflowRunner; by default the job runs on this machine.
      beam_options: Options of that runner, such as ["--project=my-project", "--region=us-central1"].
    """
    if runner == "DataflowRunner" and not (out or "").startswith("gs://"):
        raise ConfigError("a Dataflow job writes to gs://: give out=gs://BUCKET/DIRECTORY")
    out = out or f"data/{dataset}"
    options = {"dataset": dataset, "source": source, "shards": shards, "limit": limit}
    if same_data(out, options):
        return Completed(name="Skipped", message=f"{out} holds this data already")
    flags = _flags(source, shards, limit, runner)
    # vdm hands the options that it does not know to Beam.
    job = vdm("prepare", dataset, "--out", out, *flags, *(beam_options or []))
    run_job(f"prepare {dataset}", job)
    manifest = read_manifest(out)
    record = {"options": options, "fingerprints": fingerprints(manifest)}
    write_atomically(epath.Path(out) / OPTIONS_NAME, (json.dumps(record, indent=2) + "\n").encode())
    create_markdown_artifact(describe(manifest, out), key=f"data-{slug(out)}", description=f"data directory {out}")
    return Completed(message=f"{out} is complete")


def same_data(out: str, options: dict[str, Any]) -> bool:
    """Say whether a data directory is complete, was made with these options and holds what was made then."""
    path = epath.Path(out) / OPTIONS_NAME
    try:
        record = json.loads(path.read_text())
        return record == {"options": options, "fingerprints": fingerprints(read_manifest(out))}
    except (FileNotFoundError, NotADirectoryError, DataError, ValueError):
        return False


def fingerprints(manifest: Manifest) -> dict[str, str]:
    """Return the fingerprint of each split."""
    return {name: split.fingerprint for name, split in manifest.splits.items()}


def describe(manifest: Manifest, out: str) -> str:
    """Return what a data directory holds as markdown."""
    rows = "\n".join(
        f"| {name} | {split.num_images:,} | {len(split.shards)} | `{split.fingerprint[:16]}` |"
        for name, split in manifest.splits.items()
    )
    shape = "x".join(map(str, manifest.image_shape))
    return (
        f"# {manifest.name}\n\n{shape}, {manifest.num_levels} levels, from {manifest.source}; in `{out}`.\n\n"
        f"| split | images | files | fingerprint |\n| --- | --- | --- | --- |\n{rows}\n"
    )


def _flags(source: str | None, shards: int | None, limit: int | None, runner: str | None) -> list[str]:
    values = {"--source": source, "--shards": shards, "--limit": limit, "--runner": runner}
    return [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
