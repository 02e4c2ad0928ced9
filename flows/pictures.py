"""Sample grids of a run, drawn once for each step."""

import tempfile
from pathlib import Path

from etils import epath

from flows.job import run_job, vdm


def sample_grid(workdir: str, step: int, num: int, steps: int) -> bytes:
    """Return a PNG of samples, from samples/ of the run directory if it was drawn before.

    Args:
      workdir: run directory, local or gs://.
      step: step of the checkpoint.
      num: images.
      steps: sampling steps of each.
    """
    path = epath.Path(workdir) / "samples" / f"{step}-{num}x{steps}.png"
    if path.exists():
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "samples.png"
        words = ("--step", str(step), "--num", str(num), "--steps", str(steps), "--out", str(out))
        run_job(f"sample step {step}", vdm("sample", "--workdir", workdir, *words, workdir=workdir))
        picture = out.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
    return picture
