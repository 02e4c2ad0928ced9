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
from vdm_lib.compression.chunk import decode_chunk, encode_chunk
from vdm_lib.compression.container import StoredChunk, pixels_digest, serialise
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.records import write_atomically
from vdm_lib.storage import storage_errors

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
    with Progress("compress", total=len(images) * (2 if verify else 1), unit="image") as progress:
        progress.say(f"{len(images):,} images, {steps:,} steps each, {settings.batch_size} at a time")
        if given.left_out:
            more = f" and {len(given.left_out) - 5:,} more" if len(given.left_out) > 5 else ""
            progress.say(f"left out, no PNGs: {', '.join(given.left_out[:5])}{more}")
        with telling(progress.say, "compiling"):
            ready = make_ready(subject, settings)
        progress.begin()

        stored: list[StoredChunk] = []
        encode_seconds, net_bits = 0.0, 0
        for index, first in enumerate(range(0, len(images), chunk_size)):
            part = images[first : first + chunk_size]
            before = time.perf_counter()
            chunk = encode_chunk(ready.codec, index, part, progress.advance_and_report)
            encode_seconds += time.perf_counter() - before
            net_bits += chunk.net_bits
            stored.append(StoredChunk(chunk, pixels_digest(part)))
            if verify and not np.array_equal(
                decode_chunk(ready.codec, index, chunk, part.shape[1:], progress.advance_and_report), part
            ):
                raise VdmError(f"chunk {index} does not decode to the images that it was made of: nothing is written")
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
        net_bpd=net_bits / images.size,
        gross_bpd=sum(32 * each.chunk.words.size for each in stored) / images.size,
        file_bpd=8 * len(data) / images.size,
        verified=verify,
        encode_seconds=encode_seconds,
        seconds=time.perf_counter() - started,
    )


def _check_free(out: str) -> None:
    """Raise ConfigError if the file exists: it may be the only copy of other images."""
    with storage_errors(out):
        if epath.Path(out).exists():
            raise ConfigError(f"{out} exists: choose another name or remove it")
