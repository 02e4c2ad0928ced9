"""The options of `vdm eval`: one run, two runs compared, or a checkpoint of the original."""

import argparse
from typing import Any

import configs
from pipelines.commands.words import Subcommands, add, config_words, job, path
from vdm_lib.errors import ConfigError


def add_to(commands: Subcommands) -> None:
    """Add `vdm eval`."""
    evaluate = add(commands, "eval", "measure bits per dimension with its error",
                   "vdm eval --workdir runs/a --data data/cifar10",
                   "vdm eval eval.passes=16 --workdir runs/a --data data/cifar10 --step all",
                   "vdm eval --compare runs/a runs/b@600 --data data/cifar10",
                   "vdm eval model.timesteps=100 --codec 100 --workdir runs/a --data data/cifar10",
                   "vdm eval cifar10 --checkpoint checkpoints-0 --workdir runs/published --data data/cifar10",
                   usage="vdm eval [key=value ...] --workdir WORKDIR --data DATA [--step STEP] [--force]\n"
                         "                [--reference-protocol] [--allow-other-data] [--json]\n"
                         "       vdm eval [key=value ...] --compare RUN[@STEP] RUN[@STEP] --data DATA [--json]\n"
                         "       vdm eval [key=value ...] --codec N [--codec-repeats R] --workdir WORKDIR --data DATA "
                         "[--step STEP] [--json]\n"
                         "       vdm eval CONFIG [key=value ...] --checkpoint SRC --workdir WORKDIR --data DATA "
                         "[--json]")  # fmt: skip
    evaluate.add_argument("words", nargs="*", metavar="CONFIG | key=value",
                          help="eval.* or model.timesteps of the run, e.g. eval.passes=16; "
                               "with --checkpoint first the config")  # fmt: skip
    evaluate.add_argument("--checkpoint", type=path, metavar="SRC",
                          help="measure a checkpoint of google-research/vdm (checkpoints-0)")  # fmt: skip
    evaluate.add_argument("--workdir", type=path, help="run directory; for --checkpoint the report's place")
    evaluate.add_argument("--compare", type=path, nargs=2, metavar="RUN[@STEP]",
                          help="two checkpoints on the same images, times and noise: which is better")  # fmt: skip
    evaluate.add_argument("--codec", type=int, metavar="N",
                          help="compress the first N test images in model.timesteps steps (100 if it has none) and "
                               "compare their real rate with the bound, PNG, WebP and JPEG XL")  # fmt: skip
    evaluate.add_argument("--codec-repeats", type=int, metavar="R",
                          help="with --codec: codes of each image, each beginning with other bits; their mean has less "
                               "chance in it (default 1)")  # fmt: skip
    evaluate.add_argument("--reference-protocol", action="store_true",
                          help="draw images and times as google-research/vdm did: eval.protocol=reference"
                          )  # fmt: skip
    evaluate.add_argument("--data", type=path, required=True, help="data directory")
    evaluate.add_argument("--step", default="latest", help="a step, latest, or all that have no report yet")
    evaluate.add_argument("--force", action="store_true", help="measure again what has a report")
    evaluate.add_argument("--allow-other-data", action="store_true",
                          help="measure on other images than the run began with: eval/STEP-data=FINGERPRINT.json"
                          )  # fmt: skip
    evaluate.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job that the options mean."""
    if args.step not in ("latest", "all") and not args.step.isdecimal():
        raise ConfigError(f"--step is a number, latest or all, got {args.step!r}")
    config, overrides = config_words(args.words)
    if args.codec is None and args.codec_repeats is not None:
        raise ConfigError("--codec-repeats says how often --codec codes each image: give both")
    if args.reference_protocol:
        overrides["eval.protocol"] = "reference"
    if args.checkpoint is None and config is not None:
        raise ConfigError(f"a run has its own config: leave out {config}, or give --checkpoint")
    if args.compare is not None:
        if args.checkpoint or args.workdir or args.force or args.step != "latest" or args.codec is not None:
            raise ConfigError("--compare takes two runs and --data, and writes no report")
        return job("compare")(*args.compare, args.data, overrides=overrides)
    if args.workdir is None:
        raise ConfigError("eval needs --workdir, or two runs to --compare")
    if args.codec is not None:
        if args.checkpoint or args.step == "all":
            raise ConfigError("--codec takes one step of a run: leave out --checkpoint and --step all")
        return job("referee")(
            args.workdir, args.data, args.codec, overrides=overrides,
            repeats=1 if args.codec_repeats is None else args.codec_repeats,
            allow_other_data=args.allow_other_data,
            step=None if args.step == "latest" else int(args.step),
        )  # fmt: skip
    if args.checkpoint is None:
        return job("evaluate")(
            args.workdir, args.data, overrides=overrides, step=args.step, force=args.force,
            allow_other_data=args.allow_other_data,
        )  # fmt: skip
    if config is None:
        raise ConfigError("--checkpoint needs the config it was trained as, such as cifar10, before the options")
    return job("evaluate", "run_reference")(
        configs.load(config, overrides), args.checkpoint, args.workdir, args.data
    )  # fmt: skip
