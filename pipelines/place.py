"""Whether a job may write at the place it is given: asked before the work, not after it. Imports no jax."""

import os
import tempfile
from pathlib import Path

from vdm_lib.errors import ConfigError, VdmError


def check_picture(out: str, endings: tuple[str, ...] = (".png",)) -> None:
    """Accept a name that ends in .png, or as given, at a place that can be written; directories may be made later.

    Raises:
      ConfigError: another ending, or a directory.
      VdmError: a place that cannot be written.
    """
    check_file(out, "picture", endings)


def check_file(out: str, what: str, endings: tuple[str, ...]) -> None:
    """Accept the name of a file to write, as `check_picture` does; `what` it is goes into the message.

    Raises:
      ConfigError: another ending, nothing before it, or a directory.
      VdmError: a place that cannot be written.
    """
    if not out.lower().endswith(endings) or Path(out).name.lower() in endings:
        raise ConfigError(f"a {what}'s name ends in {' or '.join(endings)}, got {out!r}")
    if "://" in out:
        return
    if Path(out).is_dir():
        raise ConfigError(f"cannot write the {what} {out}: it is a directory")
    _check_writable(out)


def check_directory(out: str) -> None:
    """Accept a place for a directory to make; what is there already is another question.

    Raises:
      VdmError: a place that cannot be written.
    """
    if "://" not in out:
        _check_writable(out)


def _check_writable(out: str) -> None:
    """Raise VdmError if nothing can be made in the nearest directory above `out` that exists."""
    place = Path(out).absolute().parent
    try:
        while not place.exists():
            place = place.parent
        # Permissions alone do not say it: a disk may be mounted for reading only. The file never has a name.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise VdmError(f"cannot write {out}: {place}: {reason}") from None
