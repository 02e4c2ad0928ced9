"""The rate of the real code against the number of steps T, beside the bound with as many, on the demo's test images.

Runs `vdm eval --codec` at each T in a process of its own, for its peak memory, and writes a picture beside the demo's
run. A quarter of an hour on 2 cores.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure, estimate, of_repetitions, single
from benchmarks.process import run
from pipelines.compression.results import RefereeResult

DEMO, PICTURE = Path("demo"), Path("demo/compression-curve.png")
STEPS = (10, 50, 100, 250, 500, 1000)
NUM_IMAGES, PASSES = 64, 64
CODES = {10: 12, 50: 6, 100: 5, 250: 5, 500: 5, 1000: 5}
"""Codes of each image: more where one takes little time."""


@dataclass(frozen=True)
class _Point:
    found: RefereeResult
    peak_mib: float


def figures() -> Iterator[Figure]:
    """Yield rate, bound, speed and memory at each T; needs `make demo`."""
    if not (DEMO / "run" / "checkpoints").exists():
        return
    points: list[_Point] = []
    for steps in STEPS:
        points.append(_measure(steps))
        yield from _figures(points[-1])
        _draw(points)


def _measure(steps: int) -> _Point:
    words = [f"model.timesteps={steps}", f"eval.passes={PASSES}", "--workdir", DEMO / "run", "--data", DEMO / "data"]
    words += ["--codec", NUM_IMAGES, "--codec-repeats", CODES[steps], "--json"]
    ended = run([sys.executable, "-m", "pipelines.command", "eval", *map(str, words)])
    return _Point(RefereeResult(**json.loads(ended.said)), 1024 * ended.peak_gib)


def _figures(point: _Point) -> Iterator[Figure]:
    found = point.found
    about = f"digits, {found.steps} steps"
    yield estimate(f"{about}: real code, net", found.net_bpd, found.net_bpd_stderr, "bits/dim")
    yield estimate(f"{about}: the bound", found.bound_bpd, found.bound_bpd_stderr, "bits/dim")
    yield estimate(f"{about}: real code less bound", *found.net_less_bound, "bits/dim")
    assert found.coder_loss_bpd_stderr is not None  # of several codes
    yield estimate(f"{about}: the coder's own loss", found.coder_loss_bpd, found.coder_loss_bpd_stderr, "bits/dim")
    for way, seconds in (("encode", found.encode_seconds), ("decode", found.decode_seconds)):
        per_image = [1e3 * each / found.num_images for each in seconds]
        yield of_repetitions(f"{about}: to {way}", per_image, "ms/image")
    yield single(f"{about}: peak memory of the process", point.peak_mib, "MiB")


def _draw(points: list[_Point]) -> None:
    picture = Picture(figsize=(6.4, 4.0), layout="constrained")
    axes = picture.subplots()
    steps = [point.found.steps for point in points]

    def column(key: str) -> list[float]:
        return [getattr(point.found, key) for point in points]

    axes.errorbar(steps, column("net_bpd"), column("net_bpd_stderr"), label="real code, net", marker="o", capsize=3)
    axes.errorbar(steps, column("bound_bpd"), column("bound_bpd_stderr"), label="bound with T steps", marker="x",
                  linestyle="--", capsize=3)  # fmt: skip
    for name, bpd in points[0].found.other_bpd.items():
        if name.endswith("in one picture") and not name.startswith("PNG"):
            axes.axhline(bpd, color="grey", linewidth=1, linestyle=":")
            axes.annotate(name, (STEPS[-1], bpd), ha="right", va="bottom", color="grey", fontsize=8)
    axes.set(xscale="log", xlabel="steps T", ylabel="bits per dimension", title=f"{NUM_IMAGES} test images of digits")
    axes.set_xticks(STEPS, [f"{each:,}" for each in STEPS])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="center right")
    picture.savefig(PICTURE, dpi=110)
