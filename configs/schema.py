"""Configs as values and JSON, and back: pydantic reads the dataclasses of vdm_lib, which knows nothing of pydantic."""

from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.problems import first_problem
from vdm_lib.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from vdm_lib.errors import ConfigError

for _type in (Config, DataConfig, ModelConfig, OptimConfig, TrainConfig, EvalConfig):
    _type.__pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)  # type: ignore[attr-defined]
_ADAPTER = TypeAdapter(Config)


def to_values(config: Config) -> dict[str, Any]:
    """Return a config as nested dicts of what JSON holds."""
    return _ADAPTER.dump_python(config, mode="json")


def to_json(config: Config) -> str:
    """Return the text of `config.json`."""
    return _ADAPTER.dump_json(config, indent=2).decode() + "\n"


def from_json(text: str, origin: str) -> Config:
    """Return the config that a text holds.

    Raises:
      ConfigError: not the JSON of a config; the message names `origin`.
    """
    try:
        # Strict, so that 1.5, "64" or true is no integer; JSON lists still become tuples.
        return _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {first_problem(error)}") from None
