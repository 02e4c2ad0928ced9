"""The options of `vdm report`."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, job, path
from vdm_lib.errors import ConfigError


def add_to(commands: Subcommands) -> None:
    """Add `vdm report`."""
    report = add(commands, "report", "write one HTML file that shows a run, or several beside each other",
                 "vdm report --workdir runs/a --data data/cifar10",
                 "vdm report --compare runs/a runs/b --out compare.html")  # fmt: skip
    which = report.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=path, help="run directory")
    which.add_argument("--compare", type=path, nargs="+", metavar="RUN", help="run directories, two or more")
    report.add_argument("--data", type=path, help="with --workdir: data directory, whose statistics are shown")
    report.add_argument("--out", type=path, metavar="FILE.html", help="default: RUN/report.html or compare.html")
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job on one run or on several."""
    if args.compare:
        if args.data is not None:
            raise ConfigError("--compare shows no data: leave out --data")
        return job("report", "compare")(args.compare, out=args.out)
    return job("report")(args.workdir, out=args.out, data=args.data)
