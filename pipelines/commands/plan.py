"""The options of `vdm plan`."""

import argparse
from typing import Any

import configs
from pipelines.commands.words import Subcommands, add, add_config, job
from vdm_lib.errors import ConfigError


def add_to(commands: Subcommands) -> None:
    """Add `vdm plan`."""
    plan = add(commands, "plan",
               "whether a config fits a TPU slice, its best step time and price; compiles for it, runs nothing",
               "vdm plan cifar10 --accelerator v3-8",
               "vdm plan cifar10_aug train.batch_size=512 --accelerator all",
               usage="vdm plan CONFIG [key=value ...] --accelerator TYPE[,TYPE]|all [--quick | --ways] [--markdown]"
                     " [--json]")  # fmt: skip
    add_config(plan)
    plan.add_argument(
        "--accelerator",
        required=True,
        metavar="TYPE",
        help="such as v3-64; several with commas; or all: the five that docs/plans.md compares",
    )
    least = "the compiler's least effort, in a third of its time: memory is right to within an eighth"
    plan.add_argument("--quick", action="store_true", help=least)
    every = "every kind of remat, each with the fewest microbatches that fit: which is the quickest by the compiler"
    plan.add_argument("--ways", action="store_true", help=every)
    plan.add_argument("--markdown", action="store_true", help="with several: print a table in Markdown")
    plan.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job, or print its table."""
    config = configs.load(args.config, configs.parse_overrides(args.overrides))
    if args.markdown and args.accelerator != "all" and "," not in args.accelerator:
        raise ConfigError("--markdown makes a table of several slices: give --accelerator all, or names with commas")
    if args.markdown and args.json:
        raise ConfigError("give --markdown or --json, not both")
    result = job("plan")(config, args.accelerator, args.quick, args.ways)
    if not args.markdown:
        return result
    print(result.markdown())
    return None
