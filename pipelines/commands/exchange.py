"""The options of `vdm import`: checkpoints of google-research/vdm, in both directions."""

import argparse
from typing import Any

import configs
from pipelines.commands.words import Subcommands, add, config_words, job, path
from vdm_lib.errors import ConfigError


def add_to(commands: Subcommands) -> None:
    """Add `vdm import`."""
    import_ = add(commands, "import", "a checkpoint of google-research/vdm to a run directory",
                  "vdm import checkpoints-0 runs/published cifar10",
                  "vdm import --reverse runs/a checkpoints-0",
                  usage="vdm import SRC DST [CONFIG [key=value ...]] [--json]\n"
                        "       vdm import --reverse SRC DST [--step STEP] [--json]")  # fmt: skip
    import_.add_argument("source", type=path, metavar="SRC", help="checkpoints-0, or one in it: checkpoints-0/ckpt-2")
    import_.add_argument("destination", type=path, metavar="DST", help="run directory to make")
    import_.add_argument("words", nargs="*", metavar="CONFIG key=value",
                         help="the experiment; default: the config that has the same parameters")  # fmt: skip
    import_.add_argument("--reverse", action="store_true", help="SRC is a run, DST a checkpoints-0 to make")
    import_.add_argument("--step", type=int, help="with --reverse: step of the checkpoint (default: the newest)")
    import_.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job in the direction that is asked for."""
    name, overrides = config_words(args.words)
    if args.reverse:
        if args.words:
            raise ConfigError("--reverse takes the config from the run: leave out " + " ".join(args.words))
        return job("import_checkpoint", "run_reverse")(args.source, args.destination, args.step)
    if name is None and overrides:
        raise ConfigError("values need the config that they change, such as cifar10")
    config = None if name is None else configs.load(name, overrides)
    return job("import_checkpoint")(args.source, args.destination, config)
