"""The options of `vdm sample`."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, job, path


def add_to(commands: Subcommands) -> None:
    """Add `vdm sample`."""
    sample = add(commands, "sample", "write a grid of samples", "vdm sample --workdir runs/a --out samples.png")
    sample.add_argument("--workdir", type=path, required=True, help="run directory")
    sample.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    sample.add_argument("--steps", type=int, default=250, help="steps of the sampler (default 250)")
    sample.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    sample.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    sample.add_argument("--out", type=path, required=True, metavar="FILE.png", help="picture to write")
    sample.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job."""
    return job("sample")(
        args.workdir, args.out, num=args.num, steps=args.steps, seed=args.seed, step=args.step
    )  # fmt: skip
