"""Files that tests read but that are too large for the repository."""

import os
from pathlib import Path

import pytest


def shared_path(*parts: str) -> Path:
    """Return a path below $VDM_SHARED, or without it below `shared` beside the repository.

    Where it is absent, the calling test is skipped; on CI it fails, for there nothing may be left out.
    """
    root = os.environ.get("VDM_SHARED") or Path(__file__).parents[2] / "shared"
    path = Path(root, *parts)
    if not path.exists():
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave(f"{path} is absent: VDM_SHARED names the directory that holds {'/'.join(parts)}")
    return path
