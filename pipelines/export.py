"""The job `vdm export`: a checkpoint to a bundle of files that work without this project."""

import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pipelines.bundle.compute import flops_per_image, training_compute, training_provenance
from pipelines.bundle.write import write_bundle
from pipelines.evaluation.files import check_measured, eval_path
from pipelines.results import ExportResult
from pipelines.run_dir import provenance, read_config, read_eval_report
from vdm_lib.errors import ConfigError
from vdm_lib.export.card import CardFacts, Samples
from vdm_lib.export.functions import flatten_params
from vdm_lib.files.new_directory import check_new_directory
from vdm_lib.files.records import read_manifest
from vdm_lib.files.storage import storage_errors
from vdm_lib.model import VDM, count_params
from vdm_lib.restore import Restored, restore_ema

# On a CPU the picture may cost this many operations, about a minute on two cores; an accelerator draws 64 images.
_CPU_FLOP_OF_SAMPLES = 5e12
_NUM_SAMPLES, _NUM_STEPS = 64, 250
_SEED = 0


def run(
    workdir: str,
    out: str,
    *,
    step: int | None = None,
    data: str | None = None,
    num_samples: int | None = None,
    sample_steps: int | None = None,
    onnx: bool = False,
) -> ExportResult:
    """Export the averaged parameters of one checkpoint; the bundle is checked before it is published.

    Args:
        workdir: run directory, local or gs://.
        out: directory to make, local or gs://.
        step: step of the checkpoint; None takes the last.
        data: data directory, for the version of the data set on the card.
        num_samples: images in samples.png; None takes 64, or as many as a CPU draws in about a minute.
        sample_steps: steps of each; None likewise takes 250 or less.
        onnx: write model.onnx too.

    Raises:
        CheckpointError: no such checkpoint, or a damaged one.
        ConfigError: `out` is there already, or a number below 1.
        DataError: `data` is not what the run was trained on.
        VdmError: the bundle cannot be written or is not verified; nothing is left behind.
    """
    for name, value in (("samples", num_samples), ("sample-steps", sample_steps)):
        if value is not None and not 1 <= value <= 100_000:
            raise ConfigError(f"--{name} must lie in 1..100000, got {value}")
    if onnx and importlib.util.find_spec("jax2onnx") is None:
        raise ConfigError("--onnx needs jax2onnx, which is not installed: make setup-onnx, or pip install '.[onnx]'")
    say = _stages()
    with storage_errors(out):
        check_new_directory(out)
    config = read_config(workdir)
    say(f"reading the checkpoint of {workdir}")
    restored = restore_ema(workdir, config, step)
    report = read_eval_report(workdir, restored.step)
    if report is not None:
        raw = report.params == "raw"
        measured = restore_ema(workdir, config, restored.step, raw=True) if raw else restored
        check_measured(report, measured.params, eval_path(workdir, restored.step, "", ".json"))
    else:
        say(
            f"the bundle will have no bpd, step {restored.step} was not measured: first run "
            f"`vdm eval --workdir {workdir} --data DATA --step {restored.step}`"
        )
    version = _data_version(restored, data)
    params = {name: np.asarray(x) for name, x in flatten_params(jax.device_get(restored.params)).items()}
    flops = flops_per_image(VDM.from_config(config), params)
    fingerprints = dict(restored.metadata["data_fingerprints"])
    if report is not None:
        fingerprints[report.split] = report.data_fingerprint
    facts = CardFacts(
        config=config,
        step=restored.step,
        num_params=count_params(params),
        report=report,
        fingerprints=fingerprints,
        data_version=version,
        compute=training_compute(workdir, config, restored.step, flops),
        samples=_samples(flops, num_samples, sample_steps, config.model.num_classes),
        differences={},
        tolerances={},
        has_saved_model=False,
        has_onnx=False,
    )
    written = write_bundle(out, facts, params, _provenance(facts, workdir, version), onnx=onnx, say=say)
    return ExportResult(
        bundle=out,
        step=restored.step,
        num_params=facts.num_params,
        num_bytes=written.num_bytes,
        max_difference=written.max_difference,
        left_out=written.notes,
        bpd=None if report is None else report.bpd,
        bpd_stderr=None if report is None else report.bpd_stderr,
    )


def _stages() -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"vdm export: {time.monotonic() - started:5.1f} s: {text}", file=sys.stderr, flush=True)

    return say


def _data_version(restored: Restored, data: str | None) -> str | None:
    """Return which release of the data set the run was trained on, as far as that is recorded or shown."""
    recorded = restored.metadata.get("data_version")
    if data is None:
        return recorded
    manifest = read_manifest(data)
    trained_on = restored.metadata["data_fingerprints"].get("train")
    if "train" not in manifest.splits or manifest.splits["train"].fingerprint != trained_on:
        raise ConfigError(f"{data} is not what the run was trained on, the train fingerprints differ: leave out --data")
    return f"{manifest.data_version} ({manifest.source})"


def _samples(flops: float | None, num: int | None, steps: int | None, num_classes: int) -> Samples:
    if num is None and num_classes and num_classes < _NUM_SAMPLES:
        # A column for each class, none shorter than another.
        num = max(1, _samples(flops, None, steps, 0).num // num_classes) * num_classes
    if flops and jax.default_backend() == "cpu":
        affordable = max(1, int(_CPU_FLOP_OF_SAMPLES / flops))
        # A few images with enough steps say more than many with too few.
        num = num or min(_NUM_SAMPLES, max(4, affordable // _NUM_STEPS))
        steps = steps or min(_NUM_STEPS, max(2, affordable // num))
    return Samples(num=num or _NUM_SAMPLES, steps=steps or _NUM_STEPS, seed=_SEED)


def _provenance(facts: CardFacts, workdir: str, version: str | None) -> dict[str, Any]:
    here = provenance()
    for name in ("tensorflow", "jax2onnx", "onnxruntime", "safetensors"):
        try:
            here["packages"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here["packages"][name] = None
    return here | {
        "experiment": facts.config.name,
        "step": facts.step,
        "data_fingerprints": facts.fingerprints,
        "data_version": version,
        "training": training_provenance(workdir),
    }
