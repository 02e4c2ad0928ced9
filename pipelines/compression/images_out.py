"""What `vdm decompress` makes: what `vdm compress` was given, name by name."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8
from PIL import Image

from vdm_lib.errors import RecordError
from vdm_lib.files.records import MANIFEST_NAME, Record, encode_example, frame, read_manifest

LOST_NAME = "LOST.json"


def write_all(directory: epath.Path, origin: Mapping[str, Any], images: UInt8[np.ndarray, "n h w c"]) -> None:
    """Write what the images came as into a directory.

    Raises:
      RecordError: the shards of a data directory do not come out as its manifest says.
    """
    if origin["kind"] == "data":
        _write_data(directory, origin, images)
        return
    _write_files(directory, origin, images, np.ones(len(images), bool))


def write_rest(
    directory: epath.Path,
    origin: Mapping[str, Any],
    images: UInt8[np.ndarray, "n h w c"],
    there: Bool[np.ndarray, " n"],
) -> None:
    """Write the images that are there: PNGs by their names, arrays and splits as NPY without the lost ones.

    LOST.json lists the numbers of the lost images in each array, and the names of lost files.
    """
    if origin["kind"] == "data":
        names = [{"kind": "npy", "names": [f"{s['name']}.npy"], "shape": [len(s["labels"])]} for s in origin["splits"]]
        origin = {"files": names}
    lost = _write_files(directory, origin, images, there)
    (directory / LOST_NAME).write_text(json.dumps(lost, indent=2) + "\n")


def _write_files(
    directory: epath.Path,
    origin: Mapping[str, Any],
    images: UInt8[np.ndarray, "n h w c"],
    there: Bool[np.ndarray, " n"],
) -> dict[str, list[Any]]:
    lost: dict[str, list[Any]] = {}
    at = 0
    for file in origin["files"]:
        names: Sequence[str] = file["names"]
        count = _num_images(file)
        part, here = images[at : at + count], there[at : at + count]
        at += count
        gone = np.flatnonzero(~here).tolist()
        if file["kind"] == "png":
            for name, image, is_there in zip(names, part, here, strict=True):
                if is_there:
                    _write_png(_inside(directory, name), image)
            if gone:
                lost.setdefault("files", []).extend(names[i] for i in gone)
            continue
        kept = part[here]
        if "dtype" in file:
            kept = kept.reshape(len(kept), *file["shape"][1:]).astype(file["dtype"])
        content = io.BytesIO()
        np.save(content, kept, allow_pickle=False)
        _inside(directory, names[0]).write_bytes(content.getvalue())
        if gone:
            lost[names[0]] = gone
    return lost


def _num_images(file: Mapping[str, Any]) -> int:
    return file["shape"][0] if file["kind"] == "npy" else len(file["names"])


def _write_png(path: epath.Path, image: UInt8[np.ndarray, "h w c"]) -> None:
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "PNG")
    path.write_bytes(content.getvalue())


def _inside(directory: epath.Path, name: str) -> epath.Path:
    """Return a place inside a directory; a file must not write elsewhere.

    Raises:
      RecordError: the name leads out of it.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise RecordError(f"the file names an image {name!r}, which lies outside the directory")
    path = directory.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_data(directory: epath.Path, origin: Mapping[str, Any], images: UInt8[np.ndarray, "n h w c"]) -> None:
    """Write shards and manifest with the very bytes that they had; the manifest, which makes it whole, last."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest_path = directory / MANIFEST_NAME
    manifest_path.write_text(origin["manifest"])
    manifest = read_manifest(directory)
    manifest_path.unlink()
    at = 0
    for split in origin["splits"]:
        labels = split["labels"]
        indices = split["indices"] or range(len(labels))
        records = zip(images[at : at + len(labels)], labels, indices, strict=True)
        at += len(labels)
        for shard in manifest.splits[split["name"]].shards:
            frames = [frame(encode_example(Record(*next(records)))) for _ in range(shard.num_images)]
            data = b"".join(frames)
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise RecordError(f"{shard.name} does not come out as its manifest says")
            _inside(directory, shard.name).write_bytes(data)
    manifest_path.write_text(origin["manifest"])
