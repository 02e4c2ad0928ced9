"""`python -m benchmarks [--out STEM] [NAME ...]`: measures, prints a table and keeps it; without names everything.

A run of some benches replaces what is kept of them, and leaves the others.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import Figure
from benchmarks.results import HEADER, kept, line, now, row, write
from pipelines.freed_memory import keep_freed_memory
from pipelines.quiet import keep_quiet

NAMES = (
    "startup", "data", "train", "train_yardstick", "checkpoint", "evaluate", "evaluate_yardstick", "sample",
    "accuracy", "compress", "compression_curve", "compiling", "export", "flows", "install",
)  # fmt: skip
LATEST = Path(__file__).parent / "results" / "latest"


def main(words: list[str]) -> int:
    """Print the table of the named benches, each row as soon as it is measured, and write it as JSON and markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="See benchmarks/README.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none means all")
    parser.add_argument("--out", type=Path, default=LATEST, help="results are kept as OUT.json and OUT.md")
    given = parser.parse_args(words)
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        if "compare" in unknown:
            print("results are compared by python -m benchmarks.compare OLD.json NEW.json", file=sys.stderr)
        return 2
    try:
        results = kept(given.out)
        # Now, not after a bench of many minutes.
        write(results, given.out)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    # Started processes keep their bytecode, as they do for a user; else imports are measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    keep_quiet()
    keep_freed_memory()
    print(HEADER, flush=True)
    missing = False
    for name in given.names or NAMES:
        limits, taken = tuple(machine.limits()), list[Figure]()
        print(f"{name}, right before: {line(limits)}", file=sys.stderr)
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            print(row(figure), flush=True)
            taken.append(figure)
            # After each, so that what was measured is kept when a later one fails or is interrupted.
            results = results.with_bench(now(name, limits, taken))
            write(results, given.out)
        if not taken:
            print(f"{name}: not taken; benchmarks/README.md says what it needs", file=sys.stderr)
            missing = True
    # Of all, some may need what is not installed; a bench that was asked for by its name may not.
    return int(missing and bool(given.names))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("python -m benchmarks: interrupted; what was measured is kept")
