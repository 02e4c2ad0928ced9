"""`python -m benchmarks.compare OLD.json NEW.json`: names every figure that moved by more than its spread."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.results import Results

# What was measured once has no spread: it moved if it changed by more than this share.
_ONCE = 0.1
_HOUR_S = 3600.0


def moved(old: Figure, new: Figure) -> bool:
    """Return whether the repetitions of two figures do not overlap; a tenth of the old where one was taken once."""
    if old.least is None or old.greatest is None or new.least is None or new.greatest is None:
        return abs(new.value - old.value) > _ONCE * abs(old.value)
    return new.least > old.greatest or new.greatest < old.least


def report(old: Results, new: Results) -> list[str]:
    """Return one line for each figure that moved, then what only one of both has, then how many stayed.

    A bench that is the same run in both, as `make bench ONLY=` leaves the others, says nothing about what stayed.
    """
    before, after = ({figure.name: figure for figure in results.figures} for results in (old, new))
    not_again = {figure.name for bench in new.benches if bench in old.benches for figure in bench.figures}
    both = [name for name in after if name in before and name not in not_again]
    lines = [_line(before[name], after[name]) for name in both if moved(before[name], after[name])]
    stayed = len(both) - len(lines)
    lines += [f"only in the old results: {name}" for name in before if name not in after]
    lines += [f"only in the new results: {name}" for name in after if name not in before]
    if old.machine != new.machine:
        lines.append("the machines differ: times do not compare, ratios and shares of a limit do")
    elif _apart(old, new):
        lines.append("taken more than an hour apart: where others share the machine compare ratios only")
    summary = f"{stayed} of {len(both)} figures stayed within their spread"
    return [*lines, f"{summary}; {len(not_again)} others were not taken again" if not_again else summary]


def _apart(old: Results, new: Results) -> bool:
    """Return whether a bench that both have was taken at two times more than an hour apart."""
    before, after = ({bench.name: _time_s(bench.taken) for bench in results.benches} for results in (old, new))
    return any(abs(after[name] - before[name]) > _HOUR_S for name in after if name in before)


def _time_s(taken: str) -> float:
    return datetime.fromisoformat(taken).timestamp()


def _line(old: Figure, new: Figure) -> str:
    change = f", {100 * (new.value - old.value) / abs(old.value):+.0f} %" if old.value else ""
    return f"{new.name}: {_said(old)} before, {_said(new)} now{change}"


def _said(figure: Figure) -> str:
    spread = "" if figure.least is None else f" ({figure.least:.3g} to {figure.greatest:.3g})"
    return f"{figure.value:.4g} {figure.unit}{spread}"


def main(words: list[str]) -> int:
    """Print the report; 2 if the words are not two files of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="See benchmarks/README.md.")
    parser.add_argument("old", type=Path, metavar="OLD.json", help="results of `python -m benchmarks --out`")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="later ones")
    given = parser.parse_args(words)
    try:
        old, new = _read(given.old), _read(given.new)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(report(old, new)))
    return 0


def _read(path: Path) -> Results:
    try:
        return Results.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
