"""Reading the files in which image data sets come: pickles, npz members, archives; nothing is unpacked to disk."""

import hashlib
import io
import pickle
import tarfile
import threading
import zipfile
from functools import lru_cache
from typing import IO, Any

import numpy as np
from etils import epath

from vdm_lib.errors import DataError

_PIECE_BYTES = 1 << 20
_LOCK = threading.Lock()
_ALLOWED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Loads arrays, lists and strings; a pickle could otherwise run any program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no array")
        # Old pickles name a module that NumPy has moved.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def unpickle(data: bytes, name: str) -> dict[str, Any]:
    """Return the dictionary of a pickle that Python 2 or 3 wrote.

    Raises:
        DataError: it is damaged or holds anything but arrays, lists and strings.
    """
    try:
        values = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in values.items()}
    except Exception as error:
        raise DataError(f"{name} is no pickle of arrays ({error}): download it again") from error


def md5_of(path: epath.Path) -> str:
    """Return the hex MD5 of a file, read piece by piece."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _members(archive: str, names: tuple[str, ...]) -> dict[str, bytes]:
    found = {}
    try:
        with epath.Path(archive).open("rb") as stream, tarfile.open(fileobj=stream, mode="r|gz") as members:
            for member in members:
                base = member.name.rsplit("/", 1)[-1]
                if member.isfile() and base in names:
                    found[base] = members.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be read ({error}): download it again") from error
    for name in names:
        if name not in found:
            raise DataError(f"{archive} has no {name}: download it again")
    return found


def tar_member(archive: str, name: str, names: tuple[str, ...]) -> bytes:
    """Return a member of a tar.gz, by its base name.

    A gzip file has no index, so the first call reads all `names` and keeps them in memory for the next.

    Raises:
        DataError: the archive is damaged or lacks a member.
    """
    with _LOCK:
        return _members(archive, names)[name]


def npz_shape(path: epath.Path, member: str) -> tuple[int, ...]:
    """Return the shape of an array of an npz without reading it.

    Raises:
        DataError: no npz, or no such array.
    """
    with path.open("rb") as file, _open_npz(path, file, member) as stream:
        return _header(path, stream, member)[0]


def npz_rows(path: epath.Path, member: str, start: int, stop: int) -> np.ndarray:
    """Return rows start to stop - 1 of an array of an npz; what lies before them is read and dropped.

    Raises:
        DataError: no npz, no such array, or it ends too early.
    """
    with path.open("rb") as file, _open_npz(path, file, member) as stream:
        shape, dtype = _header(path, stream, member)
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        stream.seek(stream.tell() + start * row_bytes)
        data = stream.read((stop - start) * row_bytes)
    if len(data) != (stop - start) * row_bytes:
        raise DataError(f"{path}: '{member}' ends too early: download it again")
    return np.frombuffer(data, dtype).reshape(stop - start, *shape[1:])


def _open_npz(path: epath.Path, file: IO[bytes], member: str) -> IO[bytes]:
    try:
        return zipfile.ZipFile(file).open(f"{member}.npy")
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is no npz with '{member}' ({error}): download it again") from error


def _header(path: epath.Path, stream: IO[bytes], member: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise DataError(f"{path}: '{member}' is damaged ({error}): download it again") from error
    if fortran or dtype.hasobject:
        raise DataError(f"{path}: '{member}' is not a plain array in C order")
    return shape, dtype


def from_planes(rows: np.ndarray, size: int) -> np.ndarray:
    """Return images [n, size, size, 3] of rows that hold the red, the green and the blue plane one after the other."""
    return rows.reshape(len(rows), 3, size, size).transpose(0, 2, 3, 1)
