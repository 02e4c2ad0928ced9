"""Compiled programs are kept between commands: the second `vdm train` of a config begins at once."""

import hashlib
import os
import platform
from pathlib import Path

DIRECTORY, LARGEST = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"
SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MAX_BYTES = 2 * 10**9
# By default jax keeps what took a second: a start compiles dozens of programs that take less, 2 s in all.
MIN_COMPILE_S = 0.05


def keep_compiled() -> None:
    """Tell jax, before it is imported, where to keep compiled programs, unless the user has.

    In `~/.cache/vdm/jax` (or under XDG_CACHE_HOME), at most 2 GB: the least recently used go first. Nothing is kept
    where that place cannot be written. Each kind of processor has a place of its own, for a home directory may be
    shared and a program for one processor can stop another.
    """
    if DIRECTORY in os.environ:
        return
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = home / "vdm" / "jax" / _processor()
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if os.access(place, os.W_OK):
        os.environ[DIRECTORY] = str(place)
        # With a limit jax also locks the directory, so that nobody reads half a file.
        os.environ.setdefault(LARGEST, str(MAX_BYTES))
        os.environ.setdefault(SHORTEST, str(MIN_COMPILE_S))


def _processor() -> str:
    """Return a short name of what the processor can do."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
