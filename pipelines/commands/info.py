"""The options of `vdm info`."""

import argparse
from typing import Any

import configs
from pipelines.commands.words import Subcommands, add, add_config, job


def add_to(commands: Subcommands) -> None:
    """Add `vdm info`."""
    info = add(commands, "info", "print the parameters of a config", "vdm info cifar10 model.n_layer=2",
               usage="vdm info CONFIG [key=value ...] [--arrays] [--json]")  # fmt: skip
    add_config(info)
    info.add_argument("--arrays", action="store_true", help="a line for each array, not only for each part")
    info.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job, or print every array."""
    result = job("info")(configs.load(args.config, configs.parse_overrides(args.overrides)))
    if args.json or not args.arrays:
        return result
    print(result.with_arrays())
    return None
