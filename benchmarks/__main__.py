"""`python -m benchmarks [NAME ...]`: measures, and prints one markdown table; without names everything."""

import importlib
import os
import sys

from benchmarks.figures import Figure

NAMES = ("startup", "data", "train", "evaluate", "sample", "accuracy", "export", "flows")


def row(figure: Figure) -> str:
    """Return one line of the table."""
    spread = "" if figure.least is None else f"{figure.least:.3g} to {figure.greatest:.3g}"
    value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
    return f"| {figure.name} | {value} {figure.unit} | {spread} | {figure.bar} |"


def main(names: list[str]) -> int:
    """Print the table of the named benches, each row as soon as it is measured."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    # Started processes keep their bytecode, as they do for a user; else imports are measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print("| what | median | spread | bar |\n| --- | --- | --- | --- |")
    for name in names or NAMES:
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            print(row(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
