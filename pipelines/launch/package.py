"""The project as it is sent to the workers: its wheel, the lock of a training host, and the worker's own program.

The directory is named after the hash of what it holds, so that a worker that has it need not install it again.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.launch import worker
from pipelines.launch.errors import LaunchError

_ROOT = Path(__file__).parents[2]
LOCK = "requirements-tpu.lock"
# What a dry run shows: HASH is known when wheel and lock are there.
UNBUILT = Path("dist/vdm-HASH")
_BUILD_TIMEOUT_S = 300


def build(root: Path = _ROOT) -> Path:
    """Build the wheel of a checkout and return the directory to send, `dist/vdm-HASH` of that checkout.

    Raises:
      LaunchError: there is no checkout or no lock, or the package does not build.
    """
    lock = check(root)
    dist = root / "dist"
    dist.mkdir(exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=dist, prefix="building-"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(building)],
            cwd=root, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False,
        )  # fmt: skip
        wheels = sorted(building.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise LaunchError(f"the package in {root} does not build: {lines[-1].strip()}")
        return _stage([*wheels, lock, Path(worker.__file__)], dist)
    except subprocess.TimeoutExpired:
        raise LaunchError(f"building the package in {root} took longer than {_BUILD_TIMEOUT_S} s") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def check(root: Path = _ROOT) -> Path:
    """Check what can be checked without building, and return the lock that is sent.

    Raises:
      LaunchError: there is no checkout or no lock, or hatchling is missing.
    """
    if not (root / "pyproject.toml").is_file():
        raise LaunchError(f"{root} is no checkout of the project, whose wheel is sent to the workers: launch from one")
    lock = root / LOCK
    if not lock.is_file():
        raise LaunchError(f"{lock} is missing: make it with `make lock`")
    if importlib.util.find_spec("hatchling") is None:
        raise LaunchError("the wheel is built with hatchling, which is missing: pip install 'hatchling>=1.27'")
    return lock


def _stage(files: list[Path], dist: Path) -> Path:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    directory = dist / f"vdm-{digest.hexdigest()[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        # The worker's program looks for this name, whichever lock it is.
        name = "requirements.lock" if file.name == LOCK else file.name
        shutil.copyfile(file, directory / name)
    return directory
