"""Processes of their own for a bundle: one for every package that checks a format, one for every that writes it."""

import json
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.bundle import check
from pipelines.bundle.processes import Done, Processes
from vdm_lib.errors import VdmError

CHECK = Path(check.__file__)
# Where `-m` finds the project without an installation.
_ROOT = CHECK.parents[2]


@dataclass
class Checked:
    """What the checks found: files compared with their sums, differences by file, and what was left out and why."""

    files: int = 0
    max_difference: dict[str, float] = field(default_factory=dict)
    not_checked: dict[str, str] = field(default_factory=dict)


def run_checks(bundle: Path, parts: Iterable[str] = ("sums", *check.FORMATS)) -> Checked:
    """Check a local bundle; no process sees this project, and none sees two of the packages.

    Raises:
        VdmError: the bundle is not verified; one line that names the file.
    """
    parts = [part for part in parts if not _is_left_out(bundle, part)]
    # Side by side: much of each is importing and compiling on one core.
    with Processes(at_once=2) as processes:
        # First, and alone: what is damaged is not loaded.
        results = [_result(bundle, "sums", _start(processes, bundle, "sums"))] if "sums" in parts else []
        others = {part: _start(processes, bundle, part) for part in parts if part != "sums"}
        results += [_result(bundle, part, process) for part, process in others.items()]
    checked = Checked()
    for result in results:
        checked.files += result["files"]
        checked.max_difference |= result["max_difference"]
        checked.not_checked |= result["not_checked"]
    return checked


def _is_left_out(bundle: Path, part: str) -> bool:
    """Spare the start of a process; a file that should be there is missed by the sums."""
    return part in check.FORMATS and bundle.is_dir() and not (bundle / check.FORMATS[part][1]).exists()


def _start(processes: Processes, bundle: Path, part: str) -> "Future[Done]":
    # -I keeps the script's own directory and the working directory off the path.
    return processes.start([sys.executable, "-I", str(CHECK), str(bundle), "--only", part])


def _result(bundle: Path, part: str, process: "Future[Done]") -> dict[str, Any]:
    done = process.result()
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise VdmError(f"checking {bundle} ({part}) failed with exit code {done.returncode}: {reason}") from None
    if done.returncode or not result["verified"]:
        raise VdmError(f"the bundle {bundle} is not verified: {result['error']}")
    return result


def start_writer(processes: Processes, module: str, bundle: Path) -> "Future[Done]":
    """Run `python -m MODULE BUNDLE`, which adds a file or directory to a bundle; `check_written` waits for it."""
    return processes.start([sys.executable, "-m", module, str(bundle)], cwd=_ROOT)


def check_written(module: str, writer: "Future[Done]") -> None:
    """Wait for a writer.

    Raises:
        VdmError: it failed; the last line it said.
    """
    done = writer.result()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise VdmError(f"cannot write {module.rsplit('.', 1)[-1]} of the bundle: {reason[:300]}")
