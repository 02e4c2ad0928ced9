"""A run of the benches as files: JSON to compare with, and the same as a markdown table."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import Figure

HEADER = "| what | median | spread | bar |\n| --- | --- | --- | --- |"


@dataclass(frozen=True)
class Results:
    """What was measured, when, with which code and on what.

    Attributes:
        taken: date and time, UTC, ISO 8601.
        commit: of the code, with `+` behind it where files differ from it; empty outside a repository.
        machine: processor, cores, memory in GiB, Python and jax.
        figures: in the order in which they were taken.
    """

    taken: str
    commit: str
    machine: dict[str, str | float]
    figures: tuple[Figure, ...]

    def to_json(self) -> str:
        """Return the text of a results file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Results":
        """Return what `to_json` wrote; raises ValueError for anything else."""
        try:
            found = json.loads(text)
            figures = tuple(Figure(**figure) for figure in found["figures"])
            return Results(str(found["taken"]), str(found["commit"]), dict(found["machine"]), figures)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"no results of `make bench`: {type(error).__name__} {error}") from error

    def to_markdown(self) -> str:
        """Return the table under a line that says when and where it was taken."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        taken = f"{self.taken}, code {self.commit or 'unknown'}; {machine}."
        return "\n".join([taken, "", HEADER, *map(row, self.figures), ""])


def row(figure: Figure) -> str:
    """Return one line of the table."""
    spread = "" if figure.least is None else f"{figure.least:.3g} to {figure.greatest:.3g}"
    return f"| {figure.name} | {_number(figure.value)} {figure.unit} | {spread} | {figure.bar} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def here(figures: Sequence[Figure]) -> Results:
    """Return figures as the results of this machine, now."""
    return Results(datetime.now(UTC).isoformat(timespec="seconds"), _commit(), _machine(), tuple(figures))


def write(results: Results, stem: Path) -> None:
    """Write `stem`.json and `stem`.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.json").write_text(results.to_json())
    stem.with_name(f"{stem.name}.md").write_text(results.to_markdown())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip()


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
