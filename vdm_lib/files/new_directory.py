"""A directory that exists as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from etils import epath

from vdm_lib.errors import ConfigError
from vdm_lib.files.held import held
from vdm_lib.files.records import TEMPORARY_MARK


def check_new_directory(path: epath.PathLike) -> None:
    """Accept a place for a new directory, local or gs://: nothing is there, or an empty directory.

    Raises:
      ConfigError: something is there.
    """
    place = epath.Path(path)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{os.fspath(path)} is there already: choose another directory or remove it")


@contextmanager
def new_directory(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yield a directory to fill, which is `path` once the block ends; an error or an interrupt leaves nothing behind.

    On a local disk it has a temporary name beside `path` until then. A killed process leaves that, and the next one
    that makes `path` removes it. An object store cannot rename a directory, so there it is `path` itself; write last
    what makes it whole.

    Args:
      path: absent, or an empty directory.

    Raises:
      ConfigError: something is there.
      OSError: it cannot be written.
    """
    check_new_directory(path)
    final = epath.Path(path)
    if "://" in os.fspath(path):
        try:
            yield final
        except BaseException:
            if final.exists():
                final.rmtree()
            raise
        return
    temporary = final.parent / f"{final.name}{TEMPORARY_MARK}{os.urandom(4).hex()}"
    try:
        temporary.mkdir(parents=True)
        with held(temporary):
            _remove_leftovers(final)
            yield temporary
            # Another process may have been faster.
            check_new_directory(path)
            # etils would refuse an empty directory in its place.
            os.replace(temporary, final)  # noqa: PTH105
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary, os.fspath(temporary)):
            # A full disk does not say where; the temporary name means nothing to anybody.
            error.filename = os.fspath(path)
        with suppress(OSError):
            temporary.rmtree(missing_ok=True)
        raise


def _remove_leftovers(final: epath.Path) -> None:
    """Remove what killed processes left beside `final`; what a living one writes is held by it."""
    prefix = f"{final.name}{TEMPORARY_MARK}"
    for place in final.parent.iterdir():
        if place.name.startswith(prefix) and len(place.name) == len(prefix) + 8:
            with suppress(OSError), held(place):
                place.rmtree()
