"""The options of `vdm promote` and `vdm rollback`, which move what is released."""

import argparse
from typing import Any

from pipelines.commands.words import Subcommands, add, job, path


def add_to(commands: Subcommands) -> None:
    """Add `vdm promote` and `vdm rollback`."""
    promote = add(commands, "promote",
                  "verify a bundle, add it to a registry, promote it if it was evaluated and is not worse",
                  "vdm promote bundles/a --registry registry --why 'first release'")  # fmt: skip
    promote.add_argument("bundle", type=path, help="bundle, local or gs://; or a version of the registry, with --name")
    promote.add_argument("--name", help="name of the model (default: the experiment)")
    promote.add_argument("--force", action="store_true", help="do not compare it with what is promoted")
    rollback = add(commands, "rollback", "promote again what the promoted version replaced",
                   "vdm rollback digits --registry registry --why 'blurred'")  # fmt: skip
    rollback.add_argument("name", help="name of the model")
    for each in (promote, rollback):
        each.add_argument("--registry", type=path, required=True, help="directory of models, local or gs://")
        each.add_argument("--why", default="", help="for the history")
        each.add_argument("--who", help="for the history (default: the user)")
    promote.set_defaults(run=run_promote)
    rollback.set_defaults(run=run_rollback)


def run_promote(args: argparse.Namespace) -> Any:
    """Run the job `promote`."""
    return job("promote")(
        args.bundle, args.registry, name=args.name, who=args.who, why=args.why, force=args.force
    )  # fmt: skip


def run_rollback(args: argparse.Namespace) -> Any:
    """Run the job `rollback`."""
    return job("promote", "rollback")(args.name, args.registry, who=args.who, why=args.why)
