"""What a job for Dataflow needs beyond Beam's flags; checked here, as Beam says it late, as None, or never."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_jobs.worker_package import write_wheel
from vdm_lib.errors import DataError

# Flags by which a caller brings this project to the workers himself.
_SHIPS_THE_PROJECT = {"--extra_package", "--extra_packages", "--setup_file", "--sdk_container_image"}


def ship_project(flags: Sequence[str], folder: Path, *, tfds: bool) -> list[str]:
    """Return the flags with this project as a package, unless they bring it already.

    Args:
        flags: Beam's own flags.
        folder: where the wheel is written; it must stay until the job is submitted.
        tfds: the source is read through TFDS.
    """
    if {flag.split("=")[0] for flag in flags} & _SHIPS_THE_PROJECT:
        return [*flags]
    return [*flags, f"--extra_package={write_wheel(folder, tfds=tfds)}"]


def check(options: Any) -> None:
    """Check where a job stages its files and that somebody is logged in.

    Args:
        options: Beam's PipelineOptions.

    Raises:
        DataError: a staging place is not in a bucket.
        google.auth.exceptions.DefaultCredentialsError: no credentials.
    """
    values = options.get_all_options()
    for name in ("temp_location", "staging_location"):
        place = values.get(name)
        if place is not None and not place.startswith("gs://"):
            raise DataError(f"Dataflow cannot reach --{name} {place}: give a place in a bucket, gs://...")
    if not values.get("no_auth"):
        import google.auth

        google.auth.default()
