"""The options of `vdm prepare`, the data job."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, job, path


def add_to(commands: Subcommands) -> None:
    """Add `vdm prepare`."""
    prepare = add(commands, "prepare", "write a data set as sharded TFRecords", "vdm prepare digits --out data/digits",
                  "vdm prepare cifar10 --source cifar-10-batches-bin --out data/cifar10")  # fmt: skip
    prepare.add_argument("dataset", help="digits (embedded), swirl (drawn), cifar10, imagenet32, imagenet64 or images")
    prepare.add_argument("--source", type=path, help="folder or archive, local or gs://; cifar10: also tfds")
    prepare.add_argument("--size", type=int, help="images: height and width to make")
    prepare.add_argument("--out", type=path, required=True, help="data directory to make")
    prepare.add_argument(
        "--shards", type=int, help="files per split (default: about 4,096 images each, but at least 2)"
    )
    prepare.add_argument("--limit", type=int, help="keep the first LIMIT images of each split")
    prepare.add_argument("--max-bad", type=int, default=0, metavar="N", help="reject up to N bad images (default 0)")
    prepare.add_argument("--fail-on-duplicates", action="store_true", help="an image that occurs twice is an error")
    prepare.add_argument("--runner", help="Beam runner (default: FnApiRunner); flags not named here go to Beam")
    prepare.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job."""
    runner = [f"--runner={args.runner}"] if args.runner else []
    return job("prepare")(
        args.dataset, args.out, source=args.source, shards=args.shards, limit=args.limit, size=args.size,
        max_bad=args.max_bad, fail_on_duplicates=args.fail_on_duplicates, runner_args=[*runner, *args.beam_flags],
    )  # fmt: skip
