"""The `vdm` command: parses, runs the one job that is asked for, and reports in one line.

Exit codes: 0 done, 1 error, 2 usage (the command must be changed), 75 stopped on request with the state saved. Only
light modules are imported here, so that `vdm --help` answers at once.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from pipelines.commands import (
    bundle,
    compression,
    evaluate,
    exchange,
    info,
    plan,
    prepare,
    release,
    report,
    sample,
    sample_quality,
    tpu,
    train,
)
from pipelines.compilation_cache import keep_compiled
from pipelines.freed_memory import keep_freed_memory
from pipelines.launch.signals import interrupt
from pipelines.quiet import keep_quiet
from vdm_lib.errors import ConfigError, VdmError

EXIT_ERROR, EXIT_USAGE, EXIT_STOPPED = 1, 2, 75

# In the order of `vdm --help`.
_MODULES = (
    prepare,
    train,
    evaluate,
    sample,
    sample_quality,
    bundle,
    compression,
    report,
    release,
    exchange,
    info,
    plan,
    tpu,
)

# Commands that call the network again and again in this process.
_OF_THE_NETWORK = ("train", "eval", "sample", "sample-quality")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `vdm` and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="vdm",
        description="Variational diffusion models: data, training, bits per dimension, samples, export.",
        epilog="`vdm COMMAND --help` shows the options and an example. Exit codes: 0 done, 1 error, 2 wrong usage (the "
        "command must be changed), 75 stopped on request with the state saved (run it again).",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {importlib.metadata.version('vdm-pipeline')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for module in _MODULES:
        module.add_to(commands)
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; key=value words may also stand after the options, flags of Beam after those of prepare.

    argparse takes the words of a list from one place only.
    """
    argv, beam_flags = list(argv), []
    if argv[:1] == ["prepare"] and "--" in argv:
        cut = argv.index("--")
        argv, beam_flags = argv[:cut], argv[cut + 1 :]
    args, rest = build_parser().parse_known_args(argv)
    if args.command == "prepare":
        args.beam_flags, rest = [*rest, *beam_flags], []
    words = getattr(args, "overrides", getattr(args, "words", None))
    for word in rest:
        if words is None or word.startswith("-") or "=" not in word:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        words.append(word)
    return args


def _json(result: Any) -> str:
    try:
        return json.dumps(asdict(result), allow_nan=False)
    except ValueError as error:
        raise VdmError(f"the result holds a number that JSON cannot tell, run without --json: {result}") from error


def program() -> NoReturn:
    """Be the process of the command."""
    _open_standard_streams()
    argv = sys.argv[1:]
    if argv[:1] and argv[0] in _OF_THE_NETWORK:
        keep_freed_memory()
    try:
        code = _run(argv)
    except KeyboardInterrupt:
        _say_interrupted(argv)
        # Taken down piece by piece, jaxlib crashes where a compilation was interrupted.
        os._exit(EXIT_ERROR)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Lead those that the caller has closed to nowhere: a file that is opened later must not take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand in this process and return its exit code; errors are one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        _say_interrupted(argv)
        return EXIT_ERROR


def _say_interrupted(argv: Sequence[str]) -> None:
    print(f"vdm {' '.join(argv[:1])}: interrupted", file=sys.stderr, flush=True)


def _run(argv: list[str]) -> int:
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever read the output has gone
    except OSError as error:
        print(f"vdm: cannot write the output: {error.strerror or error}", file=sys.stderr)
    # The interpreter would complain once more when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_ERROR


def _main(argv: list[str]) -> int:
    if not argv:
        build_parser().print_help(sys.stderr)
        return EXIT_USAGE
    args = _parse(argv)
    keep_quiet()
    keep_compiled()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                # Ended like Ctrl-C, a job removes what it has half written.
                signal.signal(number, interrupt)
    try:
        result = args.run(args)
        text = None if result is None else _json(result) if args.json else str(result)
    except BrokenPipeError:
        raise
    except ConfigError as error:
        print(f"vdm {args.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except VdmError as error:
        print(f"vdm {args.command}: {error}", file=sys.stderr)
        return EXIT_ERROR
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"vdm {args.command}: cannot read or write{where}: {error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR
    # Not above: what cannot be printed is no file of the job.
    if text is not None:
        print(text)
    return EXIT_STOPPED if getattr(result, "stopped", False) else 0


if __name__ == "__main__":
    program()
