"""The options of `vdm info`."""

import argparse
from typing import Any

import configs
from pipelines.commands.words import Subcommands, add, add_config, job


def add_to(commands: Subcommands) -> None:
    """Add `vdm info`."""
    info = add(commands, "info", "print the parameters of a config", "vdm info cifar10 model.n_layer=2",
               usage="vdm info CONFIG [key=value ...] [--json]")  # fmt: skip
    add_config(info)
    info.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job."""
    return job("info")(configs.load(args.config, configs.parse_overrides(args.overrides)))
