"""Images with the same pixels, inside a split and between train and test, in memory that does not grow with them.

Equal digests begin with equal bits. So digests are first laid into files by their first bits, and only those of one
file can be equal: one file at a time is sorted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_PARTS = 64
# NumPy drops zero bytes at the end of an S32, but two digests of 32 bytes are still equal only if they are.
_ROW = np.dtype([("digest", "S32"), ("index", "<i8")])


@dataclass(frozen=True)
class Duplicates:
    """Images with the same pixels.

    Attributes:
        within: for each split, its images whose pixels came before in the same split.
        between: test images whose pixels are in train.
        first: the first pair in words, None without duplicates.
    """

    within: dict[str, int]
    between: int
    first: str | None


class DigestFiles:
    """The digests of all images, by split and first bits, in a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, split: str, digests: np.ndarray, indices: np.ndarray) -> None:
        """Take images of one split; in the order of their index, all calls together.

        Args:
            split: train or test.
            digests: SHA-256 of the pixels of each image: uint8 [n, 32].
            indices: index of each image in its split: int64 [n].
        """
        if not len(indices):
            return
        rows = np.empty(len(indices), _ROW)
        rows["digest"], rows["index"] = np.ascontiguousarray(digests).view("S32")[:, 0], indices
        parts = digests[:, 0] // (256 // _PARTS)
        order = np.argsort(parts, kind="stable")
        borders = np.searchsorted(parts[order], np.arange(_PARTS + 1))
        for part in range(_PARTS):
            chosen = order[borders[part] : borders[part + 1]]
            with self._path(split, part).open("ab") as file:
                file.write(rows[chosen].tobytes())

    def find(self, splits: list[str]) -> Duplicates:
        """Count the images that occur twice; `splits` are asked in this order for the first pair."""
        within = dict.fromkeys(splits, 0)
        between = 0
        pairs: dict[str, list[tuple[int, int]]] = {split: [] for split in splits}
        common: list[tuple[int, int]] = []
        for part in range(_PARTS):
            rows = {split: self._sorted(split, part) for split in splits}
            for split, values in rows.items():
                later = _repeated(values)
                within[split] += len(later)
                pairs[split] += _first_pair(later, values)
            if {"train", "test"} <= rows.keys():
                shared = _shared(rows["test"], rows["train"])
                between += len(shared)
                common += _first_pair(shared, rows["train"])
        return Duplicates(within, between, _in_words(pairs, common))

    def _path(self, split: str, part: int) -> Path:
        return self._folder / f"{split}-{part}"

    def _sorted(self, split: str, part: int) -> np.ndarray:
        """Return the rows of a file by digest, then by index."""
        path = self._path(split, part)
        rows = np.fromfile(path, _ROW) if path.exists() else np.zeros(0, _ROW)
        return rows[np.argsort(rows["digest"], kind="stable")]


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Return the rows that have an equal digest before them."""
    return rows[1:][rows["digest"][1:] == rows["digest"][:-1]]


def _shared(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the rows whose digest is among the others."""
    if not len(others):
        return rows[:0]
    places = np.minimum(np.searchsorted(others["digest"], rows["digest"]), len(others) - 1)
    return rows[others["digest"][places] == rows["digest"]]


def _first_pair(found: np.ndarray, originals: np.ndarray) -> list[tuple[int, int]]:
    """Return the least index found with the least index of its pixels among the originals; nothing if none is found."""
    if not len(found):
        return []
    row = found[found["index"].argmin()]
    return [(int(row["index"]), int(originals["index"][np.searchsorted(originals["digest"], row["digest"])]))]


def _in_words(pairs: dict[str, list[tuple[int, int]]], common: list[tuple[int, int]]) -> str | None:
    for split, found in pairs.items():
        if found:
            index, original = min(found)
            return f"{split} image {index} has the pixels of {split} image {original}"
    if common:
        index, original = min(common)
        return f"test image {index} has the pixels of train image {original}"
    return None
