"""The options of `vdm tpu`: one parser for each of its subcommands."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, add_config, job

SUMMARY = "make, watch, stop and delete TPU slices through gcloud"
_RUN_USAGE = (
    "vdm tpu run CONFIG [key=value ...] --data DATA --workdir WORKDIR --accelerator TYPE --zones ZONE[,ZONE] [options]"
)


def add_to(commands: Subcommands) -> None:
    """Add `tpu` and its subcommands to the parser of `vdm`."""
    tpu = commands.add_parser("tpu", help=SUMMARY, description=SUMMARY)
    tpu.set_defaults(run=run)
    actions = tpu.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")

    def add_action(name: str, summary: str, *examples: str, usage: str | None = None) -> argparse.ArgumentParser:
        action = add(actions, name, summary, *examples, usage=usage)
        action.add_argument("--project", help="Google Cloud project (default: gcloud's own)")
        return action

    train = add_action("run", "train on a slice: create, install, train, go on after a preemption, delete",
              "vdm tpu run cifar10 --data gs://B/cifar10 --workdir gs://B/run --accelerator v3-8 "
              "--zones us-central1-a --max-hours 100",
              "vdm tpu run cifar10 ... --dry-run", usage=_RUN_USAGE)  # fmt: skip
    add_config(train)
    train.add_argument("--data", required=True, help="data directory made by vdm prepare, on gs://")
    train.add_argument("--keep", action="store_true", help="leave the slice when the training is over")
    _add_slice(train)

    up = add_action("up", "create a slice for a run and install on it, and leave it to `vdm tpu run`",
             "vdm tpu up --workdir gs://B/run --accelerator v3-8 --zones us-central1-a")  # fmt: skip
    _add_slice(up)

    for name, summary in (
        ("status", "the state of a slice and of the program on each worker"),
        ("logs", "the last lines of a worker"),
        ("stop", "ask the program to save its state and end; the slice stays"),
        ("down", "stop the program, then delete the slice"),
    ):
        one = add_action(name, summary, f"vdm tpu {name} vdm-cifar10-1a2b3c")
        one.add_argument("name", help="name of the slice, as vdm tpu list shows it")
        one.add_argument("--zone", default="-", help="where it is (default: looked for in all zones)")
        if name == "logs":
            one.add_argument("--worker", type=int, default=0, help="number of the worker (default 0)")
            one.add_argument("--follow", action="store_true", help="go on until the program ends")
        if name in ("stop", "down"):
            one.add_argument("--grace", type=float, default=300, metavar="SECONDS",
                             help="from SIGTERM to SIGKILL (default 300)")  # fmt: skip
        if name == "down":
            one.add_argument("--now", action="store_true", help="delete at once; what was not saved is lost")

    add_action("list", "the slices that this project has made", "vdm tpu list")
    reap = add_action("reap", "delete what is left over: slices whose time is over or that only hold quota",
               "vdm tpu reap --dry-run", "vdm tpu reap")  # fmt: skip
    reap.add_argument("--all", action="store_true", help="delete every slice that this project has made")
    reap.add_argument("--dry-run", action="store_true", help="only say what would be deleted")


def run(args: argparse.Namespace) -> Any:
    """Run the action."""
    return job("tpu")(args)


def _add_slice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="run directory, on gs://; the run is known by it")
    parser.add_argument("--accelerator", required=True, metavar="TYPE", help="such as v3-8, v4-32 or v6e-16")
    parser.add_argument("--zones", "--zone", required=True, metavar="ZONE[,ZONE]", help="where to ask, in this order")
    parser.add_argument("--name", help="name of the slice (default: vdm- and a hash of the run directory)")
    parser.add_argument("--spot", action="store_true", help="cheaper, but may be taken away; then another is made")
    parser.add_argument("--reserved", action="store_true", help="from a reservation")
    parser.add_argument("--direct", action="store_true", help="create at once instead of by a queued resource")
    parser.add_argument("--wait", type=float, default=2.0, metavar="HOURS", help="for capacity (default 2)")
    parser.add_argument("--max-hours", type=float, default=24.0, metavar="HOURS",
                        help="hold slices at most this long, then stop with the state saved (default 24)")  # fmt: skip
    parser.add_argument(
        "--max-cost", type=float, metavar="USD", help="the same by pipelines/planning/accelerator_prices.toml"
    )
    parser.add_argument("--runtime-version", help="image of the VMs (default: that of the accelerator table)")
    parser.add_argument("--network", help="network of the VMs")
    parser.add_argument("--subnetwork", help="subnetwork of the VMs")
    parser.add_argument("--service-account", metavar="EMAIL", help="account that the VMs act as")
    parser.add_argument("--internal-ips", action="store_true", help="no external addresses; reach them inside")
    parser.add_argument("--shared-dir", metavar="DIR", help="mounted on every worker; run and data may be below it")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="one more label; repeatable")
    parser.add_argument("--poll", type=float, default=15.0, metavar="SECONDS", help="between two looks (default 15)")
    parser.add_argument("--dry-run", action="store_true", help="print every gcloud command, copyable, and call none")
