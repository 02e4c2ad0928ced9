"""The job `vdm decompress`: a file of `vdm compress` back to the images that it was made of."""

import time
from collections.abc import Callable

import numpy as np
from etils import epath

from pipelines.compression.codec import Ready, check_ready, check_subject, load_subject, make_ready
from pipelines.compression.header import Header, read_header
from pipelines.compression.images_out import LOST_NAME, write_all, write_rest
from pipelines.compression.origin import check_origin
from pipelines.compression.results import DecompressResult
from pipelines.place import check_directory
from pipelines.progress import Progress, telling
from vdm_lib.compression.chunk import decode_chunk
from vdm_lib.compression.container import StoredChunk, parse, pixels_digest
from vdm_lib.errors import MachineError, RecordError, VdmError
from vdm_lib.files.new_directory import check_new_directory, new_directory
from vdm_lib.files.storage import storage_errors


def run(
    file: str, out: str, *, model: str | None = None, step: int | None = None, salvage: bool = False
) -> DecompressResult:
    """Decompress a file.

    Args:
      file: what `vdm compress` wrote, local or gs://.
      out: directory to make; it appears whole or not at all.
      model: bundle or run directory; None takes the place that the file names.
      step: of a run: which checkpoint; None takes the one that the file names.
      salvage: write the images of the chunks that are whole; LOST.json names the others.

    Raises:
      CheckpointError: another model than the file's.
      ConfigError: `out` holds something.
      MachineError: this machine computes other bits than the one that made the file, has too little memory for its
        images, or constriction is missing.
      RecordError: the file is damaged; names the chunks.
      VdmError: `out` is at a place that cannot be written.
    """
    started = time.perf_counter()
    with storage_errors(out):
        check_new_directory(out)
    check_directory(out)
    with storage_errors(file):
        try:
            archive = parse(epath.Path(file).read_bytes(), file)
        except FileNotFoundError:
            raise RecordError(f"{file} is missing") from None
    header = read_header(archive.header, file)
    check_origin(archive.origin, header.num_images, header.image_shape)
    faults = [chunk for chunk in archive.chunks if isinstance(chunk, str)]
    if faults and not salvage:
        raise RecordError(_faults(file, faults))
    try:
        subject = load_subject(model or header.model.path, _step(header, model, step))
    except VdmError as error:
        if model is not None:
            raise
        raise type(error)(f"{error}: {file} names it as its model, --model names another place") from error
    check_subject(subject, header, file)
    with Progress("decompress", total=header.num_images, unit="image") as progress:
        progress.say(f"{header.num_images:,} images, {header.settings.steps:,} steps each")
        with telling(progress.say, "compiling"):
            ready = make_ready(subject, header.settings)
        check_ready(ready, header, file)
        for name, value in header.computing.items():
            if ready.computing.get(name) != value:
                progress.say(f"made with {name} {value}, here it is {ready.computing.get(name)}: the same bits")
        progress.begin()

        images, there, faults, seconds = _decode(ready, header, archive.chunks, progress.advance_and_report)
    if faults and not salvage:
        raise RecordError(_faults(file, faults))
    if not there.any():
        raise RecordError(f"{file}: {'; '.join(faults)}. No chunk is whole, so there is nothing to salvage")
    with storage_errors(out), new_directory(out) as directory:
        if faults:
            write_rest(directory, archive.origin, images, there)
        else:
            write_all(directory, archive.origin, images)
    return DecompressResult(
        out=out,
        num_images=int(there.sum()),
        lost=_ranges(there),
        decode_seconds=seconds,
        seconds=time.perf_counter() - started,
    )


def _step(header: Header, model: str | None, step: int | None) -> int | None:
    """Return the checkpoint to take: the file's own of a run; a bundle has one."""
    if step is not None:
        return step
    place = epath.Path(model or header.model.path)
    return header.model.step if (place / "checkpoints").exists() else None


def _decode(
    ready: Ready, header: Header, chunks: tuple[StoredChunk | str, ...], on_batch: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, list[str], float]:
    """Return images, which of them are there, what is wrong with the others, and the time."""
    height, width, channels = header.image_shape
    try:
        images = np.zeros((header.num_images, height, width, channels), np.uint8)
    except (MemoryError, ValueError) as error:  # NumPy's words for more than an address can reach
        raise MachineError(f"{header.num_images:,} images are more than this machine's memory can hold") from error
    there = np.zeros(len(images), bool)
    faults: list[str] = []
    at, before = 0, time.perf_counter()
    for index, (stored, (count, _)) in enumerate(zip(chunks, header.chunks, strict=True)):
        place = slice(at, at + count)
        at += count
        if isinstance(stored, str):
            faults.append(stored)
            continue
        try:
            decoded = decode_chunk(ready.codec, index, stored.chunk, (height, width, channels), on_batch)
        except RecordError as error:
            faults.append(str(error))
            continue
        if pixels_digest(decoded) != stored.digest:
            faults.append(f"chunk {index} decodes to other pixels than it was made of")
            continue
        images[place], there[place] = decoded, True
    return images, there, faults, time.perf_counter() - before


def _faults(file: str, faults: list[str]) -> str:
    return f"{file}: {'; '.join(faults)}. --salvage writes the images of the other chunks and a {LOST_NAME}"


def _ranges(there: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the runs of what is not there, as pairs of the first and the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~there, [False]]).astype(int)))
    return tuple((int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2))
