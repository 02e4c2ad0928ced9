"""The options of `vdm sample-quality`."""

import argparse
from typing import Any, get_args

from pipelines.commands.words import Subcommands, add, class_word, job, path
from vdm_lib.samplers.sampler import Sampler, Solver


def add_to(commands: Subcommands) -> None:
    """Add `vdm sample-quality`."""
    command = add(commands, "sample-quality", "measure samples against the data they were learned from",
                  "vdm sample-quality --workdir runs/a --data data/a --out quality.json")  # fmt: skip
    command.add_argument("--workdir", type=path, required=True, help="run directory")
    command.add_argument("--data", type=path, required=True, help="data directory of the run")
    command.add_argument("--num", type=int, default=500, help="number of samples (default 500)")
    command.add_argument("--steps", type=int, default=250, help="steps of the sampler (default 250)")
    command.add_argument("--solver", choices=get_args(Solver), default="ancestral", help="as in vdm sample")
    command.add_argument("--class", dest="told", type=class_word, metavar="K|all",
                         help="of a class-conditional model: samples of class K, or of all in turn (default: no class "
                              "is told; all, if the model never went without)")  # fmt: skip
    command.add_argument("--guidance", type=float, default=0.0, metavar="W", help="as in vdm sample (default 0)")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same samples (default 0)")
    command.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    command.add_argument("--features", type=path, metavar="FILE.jaxexport",
                         help="feature network, for FID, KID, precision and recall: a program by jax.export of images "
                              "[b, h, w, 3] in 0..255; without it they are left out")  # fmt: skip
    command.add_argument("--out", type=path, required=True, metavar="FILE.json",
                         help="report to write; its picture is beside it, FILE.png")  # fmt: skip
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job."""
    request = job("sampling.setting", "Request")(
        workdir=args.workdir,
        out=args.out,
        num_steps=args.steps,
        seed=args.seed,
        step=args.step,
        sampler=Sampler(args.solver, guidance=args.guidance),
        told=args.told,
        command="vdm sample-quality",
    )
    return job("sample_quality")(request, args.data, num=args.num, features=args.features)
