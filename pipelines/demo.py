"""`make demo`: the main job on embedded data, each stage as the user would call it, its result below it.

The stages are `vdm` commands in processes of their own, as the flows run them.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.results import EvalResult, ExportResult, PrepareResult, TrainResult, VerifyResult
from pipelines.sampling.results import SampleResult
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


def stage(kind: type, *words: str) -> Any:
    """Run `vdm WORDS` with its progress on this terminal, print its result and return it as a `kind`.

    Raises:
      SystemExit: the stage failed; it has said why.
    """
    print(f"\n$ vdm {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "pipelines.command", *words, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            # Ctrl-C goes to the stage as well, which may still save its state.
            output, _ = process.communicate()
            print(f"\nThe demo was interrupted; what it has made so far is in {ROOT}/.", file=sys.stderr)
            raise SystemExit(process.returncode or 1) from None
    if process.returncode:
        raise SystemExit(process.returncode)
    fields = json.loads(output.splitlines()[-1])
    if kind is EvalResult:
        fields["reports"] = tuple(BpdReport.from_fields(report, "vdm eval") for report in fields["reports"])
    result = kind(**fields)
    print(result, flush=True)
    return result


def main() -> None:
    """Run the demo in ./demo, which is made anew."""
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    data, run, bundle = str(ROOT / "data"), str(ROOT / "run"), str(ROOT / "bundle")
    picture, curve = ROOT / "samples.png", ROOT / "loss.png"

    print("The demo takes 3 to 5 minutes on 2 idle cores, nearly all of it training; it writes into demo/.", flush=True)

    stage(PrepareResult, "prepare", "digits", "--out", data)
    trained = stage(TrainResult, "train", "digits", "--data", data, "--workdir", run)
    (report,) = stage(EvalResult, "eval", "--workdir", run, "--data", data).reports
    stage(SampleResult, "sample", "--workdir", run, "--num", "64", "--steps", "250", "--out", str(picture))
    exported = stage(ExportResult, "export", "--workdir", run, "--out", bundle, "--samples", "16")
    verified = stage(VerifyResult, "verify", bundle)

    train, test = load_split(data, "train"), load_split(data, "test")
    baseline = histogram_bpd(train.images, test.images, train.num_levels)
    rows = read_metrics(ROOT / "run" / "metrics.jsonl")
    levels = {"test": (report.bpd, report.bpd_stderr), "histogram of each pixel": (baseline, 0.0)}
    title = f"digits: {trained.num_params:,} parameters, {trained.step:,} steps"
    write_loss_curve(str(curve), [int(row["step"]) for row in rows], [row["bpd"] for row in rows], levels, title=title)

    largest = max(verified.max_difference.values())
    print(f"""
The demo is done in {time.monotonic() - started:.0f} s:
data     {data}: {len(train.images):,} training and {len(test.images):,} test images, 8x8, 17 levels
model    {run}: {trained.num_params:,} parameters, {trained.step:,} steps at {trained.steps_per_s:.1f} steps/s
test bpd {report}
baseline {baseline:.3f} bits/dim for a histogram of each pixel fitted on the training images
samples  {picture}
curve    {curve}
bundle   {bundle}: {exported.num_bytes / 1e6:.1f} MB, loaded back in a fresh process, difference {largest:.1e}""")


if __name__ == "__main__":
    main()
