"""What a flow reads of a run directory: which steps there are, which are measured, how far the training is."""

import json

from etils import epath

from pipelines import run_dir
from vdm_lib.report import BpdReport

_COMMITTED = "commit_success.txt"


def checkpoint_steps(workdir: str) -> list[int]:
    """Return the steps whose checkpoint is complete, ascending.

    On a file system orbax renames the directory of a complete checkpoint to its step; object stores cannot rename,
    there it adds a file last.
    """
    directory = epath.Path(workdir) / "checkpoints"
    if not directory.exists():
        return []
    found = [path for path in directory.iterdir() if path.name.isdigit()]
    if workdir.startswith("gs://"):
        found = [path for path in found if (path / _COMMITTED).exists()]
    return sorted(int(path.name) for path in found)


def reports(workdir: str) -> list[BpdReport]:
    """Return the reports that were measured in the run's own way, by step ascending; of removed checkpoints too.

    Raises:
      CheckpointError: a file that is no report of this version.
    """
    directory = epath.Path(workdir) / "eval"
    if not directory.exists():
        return []
    steps = sorted(int(path.name[:-5]) for path in directory.glob("*.json") if path.name[:-5].isdecimal())
    found = (run_dir.read_eval_report(workdir, step) for step in steps)
    return [report for report in found if report is not None]


def steps_without_report(workdir: str) -> list[int]:
    """Return the steps that have a checkpoint and no report, newest first."""
    measured = {report.step for report in reports(workdir)}
    return [step for step in reversed(checkpoint_steps(workdir)) if step not in measured]


def metrics(workdir: str) -> list[dict[str, float]]:
    """Return the rows of metrics.jsonl; a line that is being written is left out."""
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def runs_below(directory: str) -> list[str]:
    """Return the run directories directly below a directory."""
    root = epath.Path(directory)
    return sorted(str(path.parent) for path in root.glob("*/config.json")) if root.exists() else []
