"""The options of `vdm sample`."""

import argparse
from typing import Any, get_args

from pipelines.commands.words import Subcommands, add, job, path
from vdm_lib.sampler import Decoding, Sampler, Solver, Spacing


def add_to(commands: Subcommands) -> None:
    """Add `vdm sample`."""
    sample = add(commands, "sample", "write a grid of samples", "vdm sample --workdir runs/a --out samples.png")
    sample.add_argument("--workdir", type=path, required=True, help="run directory")
    sample.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    sample.add_argument("--steps", type=int, default=250, help="steps of the sampler (default 250)")
    sample.add_argument("--solver", choices=get_args(Solver), default="ancestral",
                        help="ancestral draws noise at each step, as the original; ddim and dpm do not, and need fewer "
                             "steps (default ancestral)")  # fmt: skip
    sample.add_argument("--spacing", choices=get_args(Spacing), default="time",
                        help="what the steps divide evenly (default time)")  # fmt: skip
    sample.add_argument("--decoding", choices=get_args(Decoding), default="argmax",
                        help="the likeliest level of each pixel, or a draw (default argmax)")  # fmt: skip
    sample.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    sample.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    sample.add_argument("--out", type=path, required=True, metavar="FILE.png", help="picture to write")
    sample.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job."""
    sampler = Sampler(solver=args.solver, spacing=args.spacing, decoding=args.decoding)
    return job("sample")(
        args.workdir, args.out, num=args.num, steps=args.steps, seed=args.seed, step=args.step, sampler=sampler
    )
