"""`python -m benchmarks.compare OLD.json NEW.json`: names every figure that moved by more than its spread."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.results import Bench, Results, said

# Of a number without a spread: bytes may differ by a date in a file, distances by a last digit.
_SAME = 0.01
# Limits are measured within seconds, in which they vary less than from minute to minute.
_SAME_LIMIT = 0.1


def moved(old: Figure, new: Figure) -> bool:
    """Return whether two spreads do not overlap; of a number without a spread, whether it is a hundredth apart."""
    if old.least is None or old.greatest is None or new.least is None or new.greatest is None:
        return _apart(old, new, _SAME)
    return new.least > old.greatest or new.greatest < old.least


def report(old: Results, new: Results) -> list[str]:
    """Return one line for each figure that moved, then what only one of both has, then how many stayed.

    A bench that is the same run in both, as `make bench ONLY=` leaves the others, says nothing about what stayed.
    """
    before, after = _named(old.benches), _named(new.benches)
    not_again = _named([bench for bench in new.benches if bench in old.benches])
    both = [name for name in after if name in before and name not in not_again]
    lines = [_line(name, before[name], after[name]) for name in both if moved(before[name], after[name])]
    stayed = len(both) - len(lines)
    lines += [f"only in the old results: {name}" for name in before if name not in after]
    lines += [f"only in the new results: {name}" for name in after if name not in before]
    if old.machine != new.machine:
        lines.append("the machines differ: times do not compare, ratios and shares of a limit do")
    lines += _limits_moved(old, new)
    summary = f"{stayed} of {len(both)} figures stayed within their spread"
    return [*lines, f"{summary}; {len(not_again)} others were not taken again" if not_again else summary]


def _named(benches: Sequence[Bench]) -> dict[str, Figure]:
    """Return the figures by the names of their bench and their own, which two benches may share."""
    return {f"{bench.name}: {figure.name}": figure for bench in benches for figure in bench.figures}


def _limits_moved(old: Results, new: Results) -> list[str]:
    """Return a line for each bench of which the machine itself was slower or quicker than before."""
    before, lines = {bench.name: bench.limits for bench in old.benches}, []
    for bench in new.benches:
        pairs = zip(before.get(bench.name, ()), bench.limits, strict=False)
        limits = [f"{now.name} {said(then)}, now {said(now)}" for then, now in pairs if _apart(then, now, _SAME_LIMIT)]
        if limits:
            lines.append(f"{bench.name}: the machine moved, compare ratios only: {'; '.join(limits)}")
    return lines


def _apart(old: Figure, new: Figure, share: float) -> bool:
    return abs(new.value - old.value) > share * abs(old.value)


def _line(name: str, old: Figure, new: Figure) -> str:
    change = f", {100 * (new.value - old.value) / abs(old.value):+.0f} %" if old.value else ""
    return f"{name}: {said(old)} before, {said(new)} now{change}"


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
