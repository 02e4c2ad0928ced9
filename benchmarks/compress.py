"""Compression with the demo's model at T = 100: images/s each way, and what of it is not the network."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from pipelines.compression.codec import load_subject, make_ready, make_settings
from vdm_lib.compression.chain import EpsHat
from vdm_lib.compression.chunk import decode_chunk, encode_chunk
from vdm_lib.data import load_split

DEMO, STEPS, NUM_IMAGES = Path("demo"), 100, 320


class _Timed:
    def __init__(self, network: EpsHat) -> None:
        self.network, self.seconds = network, 0.0

    def __call__(self, z: np.ndarray, gamma: float) -> np.ndarray:
        started = time.perf_counter()
        found = self.network(z, gamma)
        self.seconds += time.perf_counter() - started
        return found


def figures() -> Iterator[Figure]:
    """Yield the speed of both ways and the part of the time that is spent outside the network; needs `make demo`."""
    if not (DEMO / "run" / "checkpoints").exists():
        return
    subject = load_subject(str(DEMO / "run"))
    settings = make_settings(subject, STEPS, None, None)
    ready = make_ready(subject, dataclasses.replace(settings, first_batch=settings.batch_size))
    images = load_split(str(DEMO / "data"), "train").images[:NUM_IMAGES]
    network = _Timed(ready.codec.network)
    codec = dataclasses.replace(ready.codec, network=network)
    started = time.perf_counter()
    chunk = encode_chunk(codec, 0, images)
    yield from _figures("encoding", time.perf_counter() - started, network)
    network.seconds, started = 0.0, time.perf_counter()
    if not np.array_equal(decode_chunk(codec, 0, chunk, images.shape[1:]), images):
        raise AssertionError("the images do not come back")
    yield from _figures("decoding", time.perf_counter() - started, network)


def _figures(what: str, seconds: float, network: _Timed) -> Iterator[Figure]:
    name = f"{what}, digits, {STEPS} steps"
    yield Figure(name=name, value=NUM_IMAGES / seconds, unit="images/s", bar="at least 20")
    outside = 100.0 * (1.0 - network.seconds / seconds)
    yield Figure(name=f"{name}, time outside the network", value=outside, unit="%", bar="below 10 %")
