"""Importing tensorboardX without PyTorch, which it takes along wherever that is installed: seconds of each start."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_torch() -> Iterator[None]:
    """Let what is imported inside find no PyTorch, unless it is imported already."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's word for "not to be found"
    try:
        yield
    finally:
        del sys.modules["torch"]
