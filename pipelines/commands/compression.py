"""The options of `vdm compress` and `vdm decompress`."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, job, path


def add_to(commands: Subcommands) -> None:
    """Add `vdm compress` and `vdm decompress`."""
    compress = add(commands, "compress", "images to one file that decodes to the very pixels",
                   "vdm compress --model bundles/a --steps 100 photos/ more.npy --out photos.vdmz",
                   "vdm compress --model runs/a --steps 100 data/digits --out digits.vdmz")  # fmt: skip
    compress.add_argument("places", nargs="+", type=path, metavar="IN",
                          help="a data directory, or PNGs, folders of PNGs and NPY arrays")  # fmt: skip
    compress.add_argument("--model", type=path, required=True, help="bundle or run directory")
    compress.add_argument("--steps", type=int, required=True, metavar="T",
                          help="steps of the chain: more take fewer bits and more time, 100 to 1000 are usual"
                          )  # fmt: skip
    compress.add_argument("--out", type=path, required=True, metavar="FILE.vdmz", help="file to write")
    compress.add_argument("--step", type=int, help="step of the checkpoint of a run (default: the newest)")
    compress.add_argument("--batch", type=int, metavar="N", help="images at a time (default: what suits the device)")
    compress.add_argument("--first-batch", type=int, metavar="N",
                          help="images of the first batch of a chunk (default: what suits the device): more are "
                               "faster and cost more bits")  # fmt: skip
    compress.add_argument("--chunk", type=int, metavar="N", default=4096,
                          help="images that are lost together if a byte is damaged (default 4096)")  # fmt: skip
    compress.add_argument("--no-verify", action="store_true", help="do not decode again and compare")
    compress.set_defaults(run=run_compress)

    decompress = add(commands, "decompress", "a file of vdm compress back to the images it was made of",
                     "vdm decompress photos.vdmz --out photos")  # fmt: skip
    decompress.add_argument("file", type=path, metavar="FILE.vdmz", help="what vdm compress wrote")
    decompress.add_argument("--out", type=path, required=True, help="directory to make")
    decompress.add_argument("--model", type=path, help="bundle or run directory (default: where the file says)")
    decompress.add_argument("--step", type=int, help="step of the checkpoint of a run (default: the file's)")
    decompress.add_argument("--salvage", action="store_true", help="of a damaged file write what is whole")
    decompress.set_defaults(run=run_decompress)


def run_compress(args: argparse.Namespace) -> Any:
    """Run the job `compress`."""
    return job("compress")(
        args.places, args.model, args.out, steps=args.steps, step=args.step, batch_size=args.batch,
        first_batch=args.first_batch, chunk_size=args.chunk, verify=not args.no_verify,
    )  # fmt: skip


def run_decompress(args: argparse.Namespace) -> Any:
    """Run the job `decompress`."""
    return job("decompress")(args.file, args.out, model=args.model, step=args.step, salvage=args.salvage)
