"""Compression with the demo's model at T = 100: images/s each way, and what of it is not the network.

First the codec in batches of full size, then `vdm compress` and `vdm decompress` as they are run, with the small
batches that a chunk begins with. The network alone, in calls of the same size on as many threads, is the limit.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import REPEATS, Figure, of_repetitions, seconds
from pipelines.compression.codec import Ready, load_subject, make_ready, make_settings
from vdm_lib.compression.chain import EpsHat
from vdm_lib.compression.chunk import Codec, decode_chunk, encode_chunk
from vdm_lib.data import load_split

DEMO, STEPS, NUM_IMAGES, NUM_IMAGES_OF_COMMAND = Path("demo"), 100, 192, 640
_BAR = "at least 20"


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
    images = load_split(str(DEMO / "data"), "train").images
    yield _network_alone(ready, images)
    yield from _both_ways(ready.codec, images[:NUM_IMAGES])
    yield from _commands(images[:NUM_IMAGES_OF_COMMAND])


def _network_alone(ready: Ready, images: np.ndarray) -> Figure:
    codec = ready.codec
    z = images[: codec.batch_size].astype(np.float64)
    taken = seconds(lambda: [codec.network(z, 0.0) for _ in range(STEPS)])
    per_s = [len(z) / each for each in taken]
    return of_repetitions(f"the network alone, digits, {STEPS} calls for each image", per_s, "images/s")


def _both_ways(codec: Codec, images: np.ndarray) -> Iterator[Figure]:
    network = _Timed(codec.network)
    codec = dataclasses.replace(codec, network=network)
    per_s: dict[str, list[float]] = {"encoding": [], "decoding": []}
    outside: dict[str, list[float]] = {"encoding": [], "decoding": []}

    def note(what: str, started: float) -> None:
        taken = time.perf_counter() - started
        per_s[what].append(len(images) / taken)
        outside[what].append(100.0 * (1.0 - network.seconds / taken))

    for number in range(REPEATS):
        network.seconds, started = 0.0, time.perf_counter()
        chunk = encode_chunk(codec, number, images)
        note("encoding", started)
        network.seconds, started = 0.0, time.perf_counter()
        decoded = decode_chunk(codec, number, chunk, images.shape[1:])
        note("decoding", started)
        if not np.array_equal(decoded, images):
            raise AssertionError("the images do not come back")
    for what in per_s:
        name = f"{what}, digits, {STEPS} steps"
        yield of_repetitions(name, per_s[what], "images/s", _BAR)
        yield of_repetitions(f"{name}, time outside the network", outside[what], "%", "below 10 %")


def _commands(images: np.ndarray) -> Iterator[Figure]:
    speeds: list[list[float]] = []
    with tempfile.TemporaryDirectory() as place:
        np.save(f"{place}/x.npy", images)
        for k in range(REPEATS):
            file = f"{place}/{k}.vdmz"
            words = "compress", "--model", DEMO / "run", "--steps", STEPS, f"{place}/x.npy", "--out", file
            made, back = _vdm(*words), _vdm("decompress", file, "--out", f"{place}/{k}")
            if not np.array_equal(np.load(f"{place}/{k}/x.npy"), images):
                raise AssertionError("the images do not come back")
            taken = made["encode_seconds"], made["verify_seconds"], back["decode_seconds"]
            speeds.append([len(images) / each for each in taken])
    names = "vdm compress", "vdm compress, verifying", "vdm decompress"
    for name, values in zip(names, zip(*speeds, strict=True), strict=True):
        bar = _BAR if "verifying" not in name else ""
        yield of_repetitions(f"{name}, {len(images)} digits, {STEPS} steps", values, "images/s", bar)


def _vdm(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipelines.command", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
