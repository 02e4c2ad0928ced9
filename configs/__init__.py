"""Named experiments: one module each, values only, and the one way to load them.

`load(name, overrides)` is what the command line and the flows call; both give an override as a dotted key and a
value that is JSON if it parses as JSON, else a string. `configs.schema`, and pydantic with it, is imported when a
config is at hand: `vdm --help` takes half the time without.
"""

import difflib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vdm_lib.config import Config
from vdm_lib.errors import ConfigError

NAMES = (
    "digits",
    "digits_cond",
    "swirl",
    "debug",
    "cifar10",
    "cifar10_aug",
    "cifar10_aug_paper",
    "imagenet32",
    "imagenet64",
)


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the experiment `name` with some of its values replaced.

    Args:
      name: one of NAMES.
      overrides: dotted key -> value, such as {"model.n_embd": 64}.

    Raises:
      ConfigError: unknown name or key (the nearest right one is named), or a value of the wrong type or range.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown config {name!r}{_did_you_mean(name, NAMES)}; there are: {', '.join(NAMES)}")
    return override(importlib.import_module(f"configs.{name}").CONFIG, overrides or {})


def override_keys() -> list[str]:
    """Return every dotted key that an override can have."""
    from configs import schema

    return _dotted_keys(schema.to_values(load(NAMES[0])))


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return a config with some of its values replaced.

    Args:
      config: any config.
      overrides: dotted key -> value, such as {"model.n_embd": 64}.

    Raises:
      ConfigError: unknown key (the nearest right one is named), or a value of the wrong type or range.
    """
    from configs import schema

    values = schema.to_values(config)
    known = _dotted_keys(values)
    for key, value in overrides.items():
        if key not in known:
            raise ConfigError(f"unknown config key {key!r}{_did_you_mean(key, known)}")
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return schema.from_json(json.dumps(values), "config")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Return {"model.n_embd": 64} for ["model.n_embd=64"].

    Raises:
      ConfigError: a word without '=', or a key given twice.
    """
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"an override is written key=value, got {word!r}")
        if key in overrides:
            raise ConfigError(f"{key} is given twice: {overrides[key]!r} and {value!r}")
        try:
            overrides[key] = json.loads(value)
        # Numbers of thousands of digits and lists nested thousands deep are no JSON that Python reads.
        except (ValueError, RecursionError):
            overrides[key] = value
    return overrides


def to_json(config: Config) -> str:
    """Return the text of `config.json`."""
    from configs import schema

    return schema.to_json(config)


def from_json(text: str, origin: str) -> Config:
    """Return the config that a `config.json` holds.

    Raises:
      ConfigError: not the JSON of a config; the message names `origin`.
    """
    from configs import schema

    return schema.from_json(text, origin)


def _dotted_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys += _dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f", did you mean {near[0]!r}?" if near else ""
