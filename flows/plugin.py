"""Lets `prefect deployment run vdm-train` take the bare name; refuses wrong configs and a server that is down.

Prefect calls `setup_environment` before it reads its command line, where prefect.toml switches plugins on: in this
repository. Elsewhere the full name `vdm-train/vdm-train` works, and the server refuses what is not in the form.
"""

import itertools
import json
import sys
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.plugins import register_hook
from prefect.settings import get_current_settings

import configs
from vdm_lib.errors import ConfigError

_RUN = ["deployment", "run"]


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Read the command line of `prefect deployment run` and mend its name.

    Raises:
      SystemExit: an unknown config or an override that it does not have, or the server does not answer.
    """
    words = sys.argv[1:]
    if words[:2] != _RUN:
        return
    sys.argv[1:] = full_names(words)
    try:
        check(words)
    except ConfigError as error:
        # Prefect starts plugins before its own error handling.
        print(f"prefect deployment run: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if (problem := silence_of_server()) is not None:
        print(f"prefect deployment run: {problem}", file=sys.stderr)
        raise SystemExit(1)


def silence_of_server() -> str | None:
    """Return that the server of the profile does not answer, where Prefect would show a traceback; None if it does."""
    url = get_current_settings().api.url
    if not url:
        return None
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if not isinstance(error, httpx.TransportError):
        return None
    return f"the server {url} does not answer ({type(error).__name__}): start it, or mend the address"


def full_names(words: list[str]) -> list[str]:
    """Return the words with the bare name of a deployment written in full."""
    return [f"{word}/{word}" if _is_name(words, i) else word for i, word in enumerate(words)]


def check(words: list[str]) -> None:
    """Raise ConfigError for an unknown config or override among the parameters of these words."""
    given: dict[str, Any] = {}
    for flag, value in itertools.pairwise(words):
        if flag in ("-p", "--param") and "=" in value:
            name, _, text = value.partition("=")
            given[name] = _parsed(text)
        if flag == "--params":
            values = _parsed(value)
            given |= values if isinstance(values, dict) else {}
    if "experiment" in given or "overrides" in given:
        overrides = given.get("overrides") or {}
        if not isinstance(overrides, dict):
            raise ConfigError("""overrides is a JSON object, such as -p 'overrides={"model.n_embd": 64}'""")
        configs.load(str(given.get("experiment", "digits")), overrides)


def _is_name(words: list[str], i: int) -> bool:
    return i >= len(_RUN) and words[i].startswith("vdm-") and "/" not in words[i] and words[i - 1][:1] != "-"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
