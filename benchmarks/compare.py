"""`python -m benchmarks.compare OLD.json NEW.json`: names every figure that moved by more than its spread."""

import sys
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.results import Results

# What was measured once has no spread: it moved if it changed by more than this share.
_ONCE = 0.1


def moved(old: Figure, new: Figure) -> bool:
    """Return whether the repetitions of two figures do not overlap; a tenth of the old where one was taken once."""
    if old.least is None or old.greatest is None or new.least is None or new.greatest is None:
        return abs(new.value - old.value) > _ONCE * abs(old.value)
    return new.least > old.greatest or new.greatest < old.least


def report(old: Results, new: Results) -> list[str]:
    """Return one line for each figure that moved, then what only one of both has, then how many stayed."""
    before, after = ({figure.name: figure for figure in results.figures} for results in (old, new))
    both = [name for name in after if name in before]
    lines = [_line(before[name], after[name]) for name in both if moved(before[name], after[name])]
    stayed = len(both) - len(lines)
    lines += [f"only in the old results: {name}" for name in before if name not in after]
    lines += [f"only in the new results: {name}" for name in after if name not in before]
    if old.machine != new.machine:
        lines.append("the machines differ: times do not compare, shares of a limit do")
    return [*lines, f"{stayed} of {len(both)} figures stayed within their spread"]


def _line(old: Figure, new: Figure) -> str:
    change = f", {100 * (new.value - old.value) / abs(old.value):+.0f} %" if old.value else ""
    return f"{new.name}: {_said(old)} before, {_said(new)} now{change}"


def _said(figure: Figure) -> str:
    spread = "" if figure.least is None else f" ({figure.least:.3g} to {figure.greatest:.3g})"
    return f"{figure.value:.4g} {figure.unit}{spread}"


def main(words: list[str]) -> int:
    """Print the report; 2 if the words are not two files of results."""
    if len(words) != 2:
        print("python -m benchmarks.compare OLD.json NEW.json: two files of results are needed", file=sys.stderr)
        return 2
    try:
        old, new = (_read(Path(word)) for word in words)
    except (OSError, ValueError) as error:
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
