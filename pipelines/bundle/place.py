"""Where a bundle lies: written in a temporary directory and published whole, on a local disk or in gs://."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etils import epath

from pipelines.bundle.check import SUMS
from vdm_lib.errors import VdmError
from vdm_lib.files.new_directory import check_new_directory, new_directory
from vdm_lib.files.storage import storage_errors


def is_remote(place: str) -> bool:
    """Return whether a place is in an object store."""
    return "://" in place


@contextmanager
def staged(out: str, num_bytes: int) -> Iterator[Path]:
    """Yield a local directory to fill; leaving the block publishes it as `out`, an error leaves nothing behind.

    Args:
        out: directory to make, local or gs://.
        num_bytes: about how much will be written, asked of the disk beforehand.

    Raises:
        ConfigError: `out` holds something.
        VdmError: the disk is full or not writable.
        DataError: the object store refuses.
    """
    with storage_errors(out):
        check_new_directory(out)
    if is_remote(out):
        with tempfile.TemporaryDirectory(prefix="vdm-bundle-") as temporary, _disk_errors(out):
            _check_space(Path(temporary), num_bytes, out)
            yield Path(temporary)
            with storage_errors(out):
                _upload(Path(temporary), out)
        return
    with _disk_errors(out), new_directory(Path(out).absolute()) as temporary:
        _check_space(Path(temporary), num_bytes, out)
        yield Path(temporary)


@contextmanager
def fetched(bundle: str) -> Iterator[Path]:
    """Yield a local directory that holds the bundle: itself, or a copy of what lies in gs://.

    Raises:
        VdmError: there is no such bundle.
        DataError: the object store refuses.
    """
    if not is_remote(bundle):
        yield Path(bundle)
        return
    with tempfile.TemporaryDirectory(prefix="vdm-bundle-") as temporary, _disk_errors(temporary):
        with storage_errors(bundle):
            root = epath.Path(bundle)
            if not (root / SUMS).exists():
                raise VdmError(f"{bundle} holds no bundle (no {SUMS})")
            copy_files(root, epath.Path(temporary))
        yield Path(temporary)


def copy_files(source: epath.Path, target: epath.Path) -> None:
    """Copy all files of a bundle, SHA256SUMS last: a bundle without it is no bundle yet."""
    names = sorted(str(path.relative_to(source)) for path in _files(source))
    for name in sorted(names, key=lambda name: (name == SUMS, name)):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((source / name).read_bytes())


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _upload(local: Path, out: str) -> None:
    """Upload a bundle whose every object appears whole, the one that makes it a bundle last.

    An object store cannot rename a directory; renaming object by object would be no more atomic than this.
    """
    final = epath.Path(out)
    try:
        copy_files(epath.Path(local), final)
    except BaseException:
        if final.exists():
            final.rmtree()
        raise


def _check_space(directory: Path, num_bytes: int, out: str) -> None:
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise VdmError(
            f"cannot write the bundle {out}: about {num_bytes / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"
        )


@contextmanager
def _disk_errors(out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VdmError(f"cannot write the bundle {out}: {error.strerror or error}") from error
