"""A run of the benches as files: JSON to compare with, and the same as a markdown table."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from etils import epath

from benchmarks.figures import Figure
from vdm_lib.files.records import write_atomically

HEADER = "| what | value | spread | repetitions | bar |\n| --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Bench:
    """The figures of one bench, from one run of it.

    Attributes:
        name: of its module.
        taken: date and time, UTC, ISO 8601.
        commit: of the code, with `+` behind it where files differ from it; empty outside a repository.
        limits: of the machine, measured right before.
        figures: in the order in which they were taken.
    """

    name: str
    taken: str
    commit: str
    limits: tuple[Figure, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Results:
    """What was measured on one machine, each bench when it was last run.

    Attributes:
        machine: processor, cores, memory in GiB, Python and jax.
        benches: in the order of the table.
    """

    machine: dict[str, str | float]
    benches: tuple[Bench, ...]

    def with_bench(self, bench: Bench) -> "Results":
        """Return the results with this run of a bench in the place of an older one, else behind the others."""
        if bench.name not in {each.name for each in self.benches}:
            return Results(self.machine, (*self.benches, bench))
        return Results(self.machine, tuple(bench if each.name == bench.name else each for each in self.benches))

    def to_json(self) -> str:
        """Return the text of a results file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Results":
        """Return what `to_json` wrote; raises ValueError for anything else."""
        try:
            found = json.loads(text)
            benches = (
                Bench(**(bench | {key: tuple(map(_figure, bench[key])) for key in ("limits", "figures")}))
                for bench in found["benches"]
            )
            results = Results(dict(found["machine"]), tuple(benches))
            for bench in results.benches:
                datetime.fromisoformat(bench.taken)
            return results
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"no results of `make bench`: {type(error).__name__} {error}") from error

    def to_markdown(self) -> str:
        """Return a table for each bench, under a line that says when it was taken."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        lines = [f"{machine}. Made by `make bench`; benchmarks/README.md says how each figure is taken.", ""]
        for bench in self.benches:
            taken = f"{bench.taken}, code {bench.commit or 'unknown'}."
            limits = f" Right before: {line(bench.limits)}." if bench.limits else ""
            lines += [f"## {bench.name}", "", taken + limits, "", HEADER, *map(row, bench.figures), ""]
        return "\n".join(lines)


def _figure(values: dict[str, Any]) -> Figure:
    """Return a figure; ValueError if it holds what no bench measures."""
    numbers = [values["value"], *(values[key] for key in ("least", "greatest") if values.get(key) is not None)]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"{values.get('name')} is no number")
    if (values.get("least") is None) != (values.get("greatest") is None):
        raise ValueError("half of a spread")
    if not isinstance(values.get("repetitions"), int | None):
        raise ValueError("repetitions are no number")
    if not all(isinstance(values[key], str) for key in ("name", "unit")):
        raise ValueError("a figure without a name")
    return Figure(**values)


def row(figure: Figure) -> str:
    """Return one line of the table."""
    spread, repetitions = _spread(figure), figure.repetitions or ""
    return f"| {figure.name} | {_number(figure.value)} {figure.unit} | {spread} | {repetitions} | {figure.bar} |"


def line(figures: Iterable[Figure]) -> str:
    """Return several figures in one line of text."""
    return ", ".join(f"{figure.name} {said(figure)}" for figure in figures)


def said(figure: Figure) -> str:
    """Return value, unit and spread in a line of text."""
    spread = _spread(figure)
    return f"{_number(figure.value)} {figure.unit}{f' ({spread})' if spread else ''}"


def _spread(figure: Figure) -> str:
    return "" if figure.least is None else f"{figure.least:.3g} to {figure.greatest:.3g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def now(name: str, limits: Sequence[Figure], figures: Sequence[Figure]) -> Bench:
    """Return the figures of a bench that was run just now."""
    return Bench(name, datetime.now(UTC).isoformat(timespec="seconds"), _commit(), tuple(limits), tuple(figures))


def kept(stem: Path) -> Results:
    """Return the results in `stem`.json, with no bench in them if there is no such file.

    Raises:
      ValueError: the file is no results file, or of another machine or jax: other results are not to be lost.
    """
    here, file = Results(_machine(), ()), stem.with_name(f"{stem.name}.json")
    if not file.exists():
        return here
    try:
        found = Results.from_json(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: {error}: name another place with --out") from error
    if found.machine != here.machine:
        raise ValueError(f"{file} is of another machine, Python or jax: name another place with --out, or remove it")
    return found


def write(results: Results, stem: Path) -> None:
    """Write `stem`.json and `stem`.md, each as a whole or not at all."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for ending, text in ((".json", results.to_json()), (".md", results.to_markdown())):
        write_atomically(epath.Path(stem.with_name(f"{stem.name}{ending}")), text.encode())


@cache  # asked for after each figure
def _commit() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    # Not the results themselves, which a run of several benches writes.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude)results")
    return f"{commit}+" if changed else commit


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _machine() -> dict[str, str | float]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory in GiB": round(pages / 2**30, 1),
        "Python": platform.python_version(),
        "jax": version("jax"),
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
