"""`make demo`: the main job on embedded data, each stage as the user would call it, numbers and pictures at the end.

The stages are `vdm` commands in processes of their own, as the flows run them.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vdm_lib.data import load_split
from vdm_lib.images import write_loss_curve
from vdm_lib.metrics import read_metrics
from vdm_lib.report import BpdReport

ROOT = Path("demo")


def histogram_bpd(train: np.ndarray, test: np.ndarray, num_levels: int) -> float:
    """Return bits per dimension of `test` under a histogram of each pixel, fitted on `train` with add-one smoothing."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    counts = np.ones((train.shape[1], num_levels))
    for level in range(num_levels):
        counts[:, level] += (train == level).sum(axis=0)
    log2_probabilities = np.log2(counts / counts.sum(axis=1, keepdims=True))
    return float(-log2_probabilities[np.arange(test.shape[1]), test].mean())


def stage(*words: str) -> dict:
    """Run `vdm WORDS --json` with its progress on this terminal and return its result.

    Raises:
      SystemExit: the stage failed; it has said why.
    """
    print(f"\n$ vdm {' '.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.command", *words, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the demo in ./demo, which is made anew."""
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    data, run, bundle = str(ROOT / "data"), str(ROOT / "run"), str(ROOT / "bundle")
    picture, curve = ROOT / "samples.png", ROOT / "loss.png"

    stage("prepare", "digits", "--out", data)
    trained = stage("train", "digits", "--data", data, "--workdir", run)
    report = BpdReport(**stage("eval", "--workdir", run, "--data", data)["reports"][0])
    stage("sample", "--workdir", run, "--num", "64", "--steps", "250", "--out", str(picture))
    exported = stage("export", "--workdir", run, "--out", bundle)
    verified = stage("verify", bundle)

    train, test = load_split(data, "train"), load_split(data, "test")
    baseline = histogram_bpd(train.images, test.images, train.num_levels)
    rows = read_metrics(ROOT / "run" / "metrics.jsonl")
    lines = {"test bpd": report.bpd, "histogram of each pixel": baseline}
    write_loss_curve(curve, [int(row["step"]) for row in rows], [row["bpd"] for row in rows], lines)

    largest = max(verified["max_difference"].values())
    print(f"""
data     {data}: {len(train.images)} training and {len(test.images)} test images, 8x8, 17 levels
model    {run}: {trained["num_params"]:,} parameters, {trained["step"]} steps at {trained["steps_per_s"]:.1f} steps/s
test bpd {report}
baseline {baseline:.3f} bits/dim for a histogram of each pixel fitted on the training images
samples  {picture}
curve    {curve}
bundle   {bundle}: {exported["num_bytes"] / 1e6:.1f} MB, loaded back in a fresh process, difference {largest:.1e}
time     {time.monotonic() - started:.0f} s""")


if __name__ == "__main__":
    main()
