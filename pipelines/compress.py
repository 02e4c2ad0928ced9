"""The job `vdm compress`: images to one file that decodes to the very pixels, by a trained model."""

import time
from collections.abc import Sequence

import numpy as np
from etils import epath

from pipelines.compression.codec import header_of, load_subject, make_ready, make_settings
from pipelines.compression.images_in import read_given
from pipelines.compression.results import CompressResult
from pipelines.place import check_file
from pipelines.progress import Progress, telling
from vdm_lib.compression.chunk import Chunk, Codec, decode_chunk, encode_chunk
from vdm_lib.compression.container import StoredChunk, pixels_digest, serialise
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.files.records import write_atomically
from vdm_lib.files.storage import storage_errors

IMAGES_A_CHUNK = 4096


def run(
    places: Sequence[str],
    model: str,
    out: str,
    *,
    steps: int,
    step: int | None = None,
    batch_size: int | None = None,
    first_batch: int | None = None,
    chunk_size: int = IMAGES_A_CHUNK,
    verify: bool = True,
) -> CompressResult:
    """Compress images.

    Args:
      places: one data directory, or PNGs, folders of PNGs and NPY arrays.
      model: bundle or run directory.
      out: file to write, local or gs://; it appears whole or not at all.
      steps: steps T of the chain; each calls the network once for every image.
      step: of a run: which checkpoint; None takes the newest.
      batch_size: images that go through the chain together; None takes what suits the device.
      first_batch: images of the first batch of a chunk: more are faster and cost more bits.
      chunk_size: images of a chunk; a damaged byte costs the images of its chunk.
      verify: decode every chunk and compare.

    Raises:
      CheckpointError: no such model.
      ConfigError: a number out of its range, a place where no file can be written, or one that is taken.
      DataError: images that cannot be read or that the model is not for.
      MachineError: constriction is not installed.
      VdmError: what was encoded does not decode to the same pixels.
    """
    started = time.perf_counter()
    check_file(out, "compressed file", (".vdmz",))
    _check_free(out)
    if chunk_size < 1:
        raise ConfigError(f"--chunk must be at least 1, got {chunk_size}")
    subject = load_subject(model, step)
    settings = make_settings(subject, steps, batch_size, first_batch)
    given = read_given(places, subject.config.data)
    images = given.images
    with Progress("compress", total=len(images), unit="image") as progress:
        progress.say(f"{len(images):,} images, {steps:,} steps each, {settings.batch_size} at a time")
        if given.left_out:
            more = f" and {len(given.left_out) - 5:,} more" if len(given.left_out) > 5 else ""
            progress.say(f"left out, no PNGs: {', '.join(given.left_out[:5])}{more}")
        with telling(progress.say, "compiling"):
            ready = make_ready(subject, settings)
        progress.begin()
        before = time.perf_counter()
        parts = [images[first : first + chunk_size] for first in range(0, len(images), chunk_size)]
        chunks = [
            encode_chunk(ready.codec, index, part, progress.advance_and_report) for index, part in enumerate(parts)
        ]
        encode_seconds = time.perf_counter() - before
    verify_seconds = _verify(ready.codec, chunks, parts) if verify else None
    stored = [StoredChunk(chunk, pixels_digest(part)) for chunk, part in zip(chunks, parts, strict=True)]
    header = header_of(subject, settings, ready, model) | {"num_images": len(images)}
    data = serialise(header, given.origin, stored)
    # Again: another job may have written it meanwhile.
    _check_free(out)
    with storage_errors(out):
        epath.Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(epath.Path(out), data)
    return CompressResult(
        file=out,
        num_images=len(images),
        num_left_out=len(given.left_out),
        num_chunks=len(stored),
        steps=steps,
        num_bytes=len(data),
        net_bpd=sum(chunk.net_bits for chunk in chunks) / images.size,
        gross_bpd=sum(32 * chunk.words.size for chunk in chunks) / images.size,
        file_bpd=8 * len(data) / images.size,
        verified=verify,
        encode_seconds=encode_seconds,
        verify_seconds=verify_seconds,
        seconds=time.perf_counter() - started,
    )


def _verify(codec: Codec, chunks: Sequence[Chunk], parts: Sequence[np.ndarray]) -> float:
    """Return how long it took to decode all chunks and to compare.

    Raises:
      VdmError: a chunk that does not decode to its images.
    """
    started = time.perf_counter()
    with Progress("compress", total=sum(len(part) for part in parts), unit="verified image") as progress:
        progress.say("verifying: every chunk is decoded again and compared")
        for index, (chunk, part) in enumerate(zip(chunks, parts, strict=True)):
            if not np.array_equal(decode_chunk(codec, index, chunk, part.shape[1:], progress.advance_and_report), part):
                raise VdmError(f"chunk {index} does not decode to the images that it was made of: nothing is written")
    return time.perf_counter() - started


def _check_free(out: str) -> None:
    """Raise ConfigError if the file exists: it may be the only copy of other images."""
    with storage_errors(out):
        if epath.Path(out).exists():
            raise ConfigError(f"{out} exists: choose another name or remove it")
