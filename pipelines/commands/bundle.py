"""The options of `vdm export` and `vdm verify`."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, job, path


def add_to(commands: Subcommands) -> None:
    """Add `vdm export` and `vdm verify`."""
    export = add(commands, "export", "write a verified bundle that works without this project",
                 "vdm export --workdir runs/a --out bundles/a")  # fmt: skip
    export.add_argument("--workdir", type=path, required=True, help="run directory")
    export.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    export.add_argument("--out", type=path, required=True, help="bundle directory to make, local or gs://")
    export.add_argument("--data", type=path, help="data directory: its version goes on the card")
    export.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="images in samples.png (default 64; on a CPU fewer if they take minutes)",
    )
    export.add_argument(
        "--sample-steps", type=int, metavar="T", help="steps of each (default 250; on a CPU fewer likewise)"
    )
    export.add_argument("--onnx", action="store_true", help="write model.onnx too; needs the group onnx")
    export.set_defaults(run=run_export)

    verify = add(commands, "verify", "check a bundle in a fresh process", "vdm verify bundles/a",
                 "vdm verify bundles/a --data data/cifar10")  # fmt: skip
    verify.add_argument("bundle", type=path, help="bundle directory")
    verify.add_argument("--data", type=path, help="data directory of the model: measures bpd again")
    verify.add_argument("--allow-other-data", action="store_true", help="say that the data is other, do not refuse it")
    verify.set_defaults(run=run_verify)


def run_export(args: argparse.Namespace) -> Any:
    """Run the job `export`."""
    return job("export")(
        args.workdir, args.out, step=args.step, data=args.data, num_samples=args.samples,
        sample_steps=args.sample_steps, onnx=args.onnx,
    )  # fmt: skip


def run_verify(args: argparse.Namespace) -> Any:
    """Run the job `verify`."""
    return job("verify")(args.bundle, args.data, allow_other_data=args.allow_other_data)
