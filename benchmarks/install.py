"""How much each group of pyproject.toml installs: its packages and all that they need, from what is installed here."""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

from benchmarks.figures import Figure, single

PROJECT = "vdm-pipeline"


def figures() -> Iterator[Figure]:
    """Yield MB of each group that is installed whole; nothing for the others."""
    for group in sorted(distribution(PROJECT).metadata.get_all("Provides-Extra") or ()):
        try:
            names = closure(f"{PROJECT}[{group}]")
        except PackageNotFoundError:
            continue
        size = sum(_bytes(distribution(name)) for name in names if name != PROJECT)
        yield single(f"group {group}, {len(names) - 1} packages installed", size / 1e6, "MB")


def closure(requirement: str) -> set[str]:
    """Return the names of what a requirement needs on this machine, itself included.

    Raises:
      PackageNotFoundError: one of them is not installed.
    """
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        needed = waiting.pop()
        for extra in {"", *needed.extras}:
            name = re.sub(r"[-_.]+", "-", needed.name).lower()
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in distribution(name).requires or ():
                each = Requirement(text)
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    waiting.append(each)
    return {name for name, _ in seen}


def _bytes(package: Distribution) -> int:
    return sum(file.size or 0 for file in package.files or ())
