"""The options of `vdm sample`."""

import argparse
from typing import Any, get_args

from pipelines.commands.words import Subcommands, add, class_word, job, path
from vdm_lib.errors import ConfigError
from vdm_lib.samplers.sampler import Decoding, Sampler, Solver, Spacing

# What an option that is not for every picture is for.
_ONLY_FOR = {
    "frames": ("film", "interpolate", "inpaint", "progressive"),
    "data": ("interpolate", "inpaint", "progressive"),
    "split": ("interpolate", "inpaint", "progressive"),
    "images": ("interpolate", "inpaint", "progressive"),
    "repeats": ("inpaint",),
}


def add_to(commands: Subcommands) -> None:
    """Add `vdm sample`."""
    sample = add(commands, "sample", "write a picture of samples, or of how they come about",
                 "vdm sample --workdir runs/a --out samples.png",
                 "vdm sample --workdir runs/a --film --out film.gif",
                 "vdm sample --workdir runs/a --inpaint mask.png --data data/a --images 3 14 --out filled.png",
                 )  # fmt: skip
    sample.add_argument("--workdir", type=path, required=True, help="run directory")
    _add_pictures(sample)
    sample.add_argument("--num", type=int, help="number of images (default 64 in a grid, else 8)")
    sample.add_argument("--steps", type=int, default=250, help="steps of the sampler (default 250)")
    sample.add_argument("--solver", choices=get_args(Solver),
                        help="ancestral, the original's, and dpm_sde draw noise at each step, ddim and dpm only at the "
                             "start; both dpm need fewer steps (default ancestral, --interpolate: dpm)")  # fmt: skip
    sample.add_argument("--spacing", choices=get_args(Spacing), default="time",
                        help="what the steps divide evenly (default time)")  # fmt: skip
    sample.add_argument("--decoding", choices=get_args(Decoding), default="argmax",
                        help="the likeliest level of each pixel, or a draw (default argmax)")  # fmt: skip
    sample.add_argument("--class", dest="told", type=class_word, metavar="K|all|data",
                        help="of a class-conditional model: images of class K, of all in turn (in a grid a column "
                             "each), or of --data each one's own (default: no class is told; if the model never went "
                             "without, all, or data)")  # fmt: skip
    sample.add_argument("--guidance", type=float, metavar="W",
                        help="class-free guidance, (1 + W) eps(class) - W eps(none); two calls of the network a step "
                             "(default 0)")  # fmt: skip
    sample.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    sample.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    sample.add_argument("--out", type=path, required=True, metavar="FILE.png",
                        help="picture to write; a film may end in .gif")  # fmt: skip
    sample.set_defaults(run=run)


def _add_pictures(sample: argparse.ArgumentParser) -> None:
    kinds = sample.add_argument_group("which picture", "one of these; without any it is the grid")
    which = kinds.add_mutually_exclusive_group()
    which.add_argument("--grid", action="store_true", help="the samples alone")
    which.add_argument("--film", nargs="?", const="x", choices=("x", "z", "both"),
                       help="samples on their way: the image that the network sees (x, the default), the noisy "
                            "one (z), or both; a strip, or an animation if the picture is a .gif")  # fmt: skip
    which.add_argument("--interpolate", action="store_true",
                       help="between pairs of samples, or of images with --data, along the arc between "
                            "their noises")  # fmt: skip
    which.add_argument("--inpaint", type=path, metavar="MASK",
                       help="images of --data, drawn anew where the picture MASK, of their size, is white")  # fmt: skip
    which.add_argument("--progressive", action="store_true",
                       help="images of --data as they are decoded, with the bits per dimension so far")  # fmt: skip
    kinds.add_argument("--frames", type=int, metavar="N",
                       help="moments, points or draws in a row (default 10, 50 of an animation, 9 points, 4 "
                            "draws)")  # fmt: skip
    kinds.add_argument("--data", type=path, help="data directory that images are taken from")
    kinds.add_argument("--split", help="of the data (default test)")
    kinds.add_argument("--images", type=int, nargs="+", metavar="I",
                       help="which images of the split, from 0 on (default: the first --num)")  # fmt: skip
    kinds.add_argument("--repeats", type=int, metavar="R",
                       help="with --inpaint, how often each step is made, so that the drawn part agrees with the known "
                            "one (default 5)")  # fmt: skip


def run(args: argparse.Namespace) -> Any:
    """Run the job."""
    kinds = ("film", "interpolate", "inpaint", "progressive")
    kind = next((name for name in kinds if getattr(args, name)), "grid")
    for option, wanted in _ONLY_FOR.items():
        if getattr(args, option) is not None and kind not in wanted:
            raise ConfigError(f"--{option} is for {' and '.join(f'--{each}' for each in wanted)}: leave it out")
    if kind == "progressive" and (args.solver or args.decoding != "argmax"):
        raise ConfigError("--progressive decodes given images and samples none: leave out --solver and --decoding")
    solver = args.solver or ("dpm" if kind == "interpolate" else "ancestral")
    if kind == "progressive" and args.guidance is not None:
        raise ConfigError(
            "--progressive counts the bits of the model, and no model is what guidance draws: leave it out"
        )
    if args.images and args.num is not None:
        raise ConfigError("--images says which images, so how many there are: leave out --num")
    if args.told == "data" and args.data is None:
        raise ConfigError("--class data is each image's own of --data: name the directory, or say a class or all")
    guidance = args.guidance or 0.0
    sampler = Sampler(solver=solver, spacing=args.spacing, decoding=args.decoding, guidance=guidance)
    if kind == "grid":
        num = 64 if args.num is None else args.num
        return job("sample")(
            args.workdir, args.out, num=num, steps=args.steps, seed=args.seed, step=args.step, sampler=sampler,
            label=args.told,
        )  # fmt: skip
    return _picture(args, kind, sampler)


def _picture(args: argparse.Namespace, kind: str, sampler: Sampler) -> Any:
    request = job("sampling.setting", "Request")(
        workdir=args.workdir, out=args.out, num_steps=args.steps, seed=args.seed, step=args.step, sampler=sampler,
        told=args.told,
    )  # fmt: skip
    given = None
    if args.data is not None:
        given = job("sampling.given", "Given")(args.data, args.split or "test", tuple(args.images or ()))
    elif kind in ("inpaint", "progressive"):
        raise ConfigError(f"--{kind} needs images: name their data directory with --data")
    elif args.split or args.images:
        raise ConfigError("--split and --images need a data directory: name it with --data")
    options = {"num": args.num, "frames": args.frames}
    if kind == "film":
        options["shown"] = args.film
    elif kind == "interpolate":
        options["given"] = given
    elif kind == "inpaint":
        options = {"mask": args.inpaint, "num": args.num, "draws": args.frames, "times_each": args.repeats}
    module = {"interpolate": "interpolation", "inpaint": "inpainting"}.get(kind, kind)
    if kind in ("inpaint", "progressive"):
        options["given"] = given
    return job(f"sampling.{module}")(request, **{name: x for name, x in options.items() if x is not None})
