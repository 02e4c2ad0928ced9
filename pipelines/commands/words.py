"""What the subcommands share: how a parser is made, the words key=value, and how a job is found."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

import configs
from pipelines.launch.signals import ending_at_once

Subcommands = Any
"""What `ArgumentParser.add_subparsers` returns: argparse has no public name for it."""


def add(
    commands: Subcommands, name: str, summary: str, *examples: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a new subcommand, which has --json and ends its help with the examples."""
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        usage=usage,
        epilog="\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Whoever finds a word wrong later can show the usage of this subcommand.
    command.set_defaults(parser=command)
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    return command


def add_config(command: argparse.ArgumentParser) -> None:
    """Add a config and values that change it."""
    command.add_argument("config", help="one of: " + ", ".join(configs.NAMES))
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="a value of the config, e.g. train.steps=100"
    )


def path(text: str) -> str:
    """Return a path as it was given, but no empty one and none in a place that is neither local nor gs://."""
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    scheme, found, _ = text.partition("://")
    if found and scheme != "gs":
        raise argparse.ArgumentTypeError(f"{text}: {scheme}:// cannot be used, only local paths and gs://")
    return text


def class_word(word: str) -> int | str:
    """Return the class that a word names, or the words `all` and `data`."""
    if word not in ("all", "data") and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"a class is a number from 0 on, all or data, got {word!r}")
    return word if word in ("all", "data") else int(word)


def config_words(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Return the config's name, if the first word is one, and the key=value words after it."""
    if words and "=" not in words[0]:
        return words[0], configs.parse_overrides(words[1:])
    return None, configs.parse_overrides(words)


def job(name: str, function: str = "run") -> Any:
    """Return a function of a job, such as `pipelines.train.run`; importing it is what costs seconds."""
    with ending_at_once():
        return getattr(importlib.import_module(f"pipelines.{name}"), function)
