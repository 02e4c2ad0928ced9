"""What the flows take, and what is refused before anything is started."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field

import configs
from pipelines import run_dir
from vdm_lib.config import Config
from vdm_lib.errors import ConfigError
from vdm_lib.files.records import read_manifest

Experiment = Literal[configs.NAMES]  # pyright: ignore[reportInvalidTypeForm]
"""A list in the form of the UI; the server refuses any other name."""

Overrides = Annotated[
    dict[str, bool | int | float | str | list[int] | None],
    Field(json_schema_extra={"propertyNames": {"enum": list(configs.override_keys())}}),
]
"""Dotted key of the config -> value, as after `vdm train CONFIG`; the server refuses any other key."""


def data_dir(data: str | None, config: Config) -> str:
    """Return the data directory asked for, by default data/NAME of the config's data set."""
    return _place(data, "data") or f"data/{config.data.name}"


def work_dir(workdir: str | None, experiment: str) -> str:
    """Return the run directory asked for, by default runs/EXPERIMENT."""
    return _place(workdir, "workdir") or f"runs/{experiment}"


def check_training(config: Config, data: str, workdir: str) -> None:
    """Refuse a training that its job would refuse after it was started.

    Raises:
      DataError: the data directory is missing or not complete.
      ConfigError: the run directory belongs to another config, or the data are not those of the config.
    """
    manifest = read_manifest(data)
    if (manifest.name, manifest.image_shape) != (config.data.name, config.data.image_shape):
        raise ConfigError(
            f"{data} holds {manifest.name} {manifest.image_shape}, the config is for {config.data.name} "
            f"{config.data.image_shape}: give the data directory of that data set"
        )
    run_dir.check_config(workdir, config)


def words(overrides: dict[str, Any] | None) -> list[str]:
    """Return the key=value words of the command line for these overrides."""
    return [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]


def slug(text: str) -> str:
    """Return text as an artifact's key or an event's resource may be written: a-z, 0-9 and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "run"


def _place(value: str | None, name: str) -> str | None:
    if value is not None and not value.strip():
        raise ConfigError(f"{name} is empty: give a directory, or leave it out (an event must carry it in its payload)")
    return value
