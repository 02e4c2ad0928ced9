"""The options of `vdm train`."""

import argparse
import json
from typing import Any

import configs
from pipelines.commands.words import Subcommands, add, add_config, job, path
from vdm_lib.errors import ConfigError


def add_to(commands: Subcommands) -> None:
    """Add `vdm train`."""
    train = add(commands, "train", "train a config, going on from what the workdir holds",
                "vdm train cifar10 model.n_layer=2 --data data/cifar10 --workdir runs/a",
                "vdm train cifar10 --data data/cifar10 --workdir gs://bucket/runs/a \\\n"
                "      --coordinator host0:8476 --num-processes 2 --process-id 0",
                usage="vdm train CONFIG [key=value ...] --data DATA --workdir WORKDIR\n"
                      "                 [--allow-other-data] [--profile STEPS] [--json]\n"
                      "                 [--coordinator HOST:PORT --num-processes N --process-id I]\n"
                      "       vdm train CONFIG [key=value ...] --print-config [--json]")  # fmt: skip
    add_config(train)
    train.add_argument("--data", type=path, help="data directory made by vdm prepare")
    train.add_argument("--workdir", type=path, help="run directory, local or gs://; made if absent")
    train.add_argument(
        "--allow-other-data", action="store_true", help="go on with other images than the run began with"
    )
    train.add_argument("--profile", type=int, metavar="STEPS",
                       help="trace STEPS steps into WORKDIR/profile, for TensorBoard or Perfetto")  # fmt: skip
    train.add_argument("--coordinator", metavar="HOST:PORT",
                       help="several processes: address of process 0; TPU VMs need none of these three")  # fmt: skip
    train.add_argument("--num-processes", type=int, metavar="N", help="how many processes train together")
    train.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0")
    train.add_argument("--print-config", action="store_true", help="print the config as JSON and do nothing")
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> Any:
    """Run the job, or print the config."""
    config = configs.load(args.config, configs.parse_overrides(args.overrides))
    if args.print_config:
        text = configs.to_json(config)
        print(json.dumps(json.loads(text)) if args.json else text.rstrip("\n"))
        return None
    if args.data is None or args.workdir is None:
        raise ConfigError("train needs --data and --workdir")
    if args.profile is not None and args.profile < 1:
        raise ConfigError(f"--profile must be at least 1, got {args.profile}")
    cluster = job("training.cluster", "Cluster")(args.coordinator, args.num_processes, args.process_id)
    return job("train")(
        config, args.data, args.workdir, allow_other_data=args.allow_other_data, profile_steps=args.profile or 0,
        cluster=cluster,
    )  # fmt: skip
