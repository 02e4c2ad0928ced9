"""The evaluation job: bits per dimension of checkpoints, with errors; one report per step, written once."""

from collections.abc import Mapping
from typing import Any

import jax

import configs
from pipelines import run_dir
from pipelines.progress import Progress
from pipelines.results import EvalResult
from vdm_lib import reference
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.config import Config
from vdm_lib.data import Split, load_split
from vdm_lib.errors import CheckpointError, ConfigError
from vdm_lib.evaluate import per_image_bpd, summarise
from vdm_lib.model import VDM
from vdm_lib.reference_protocol import NUM_BATCHES, per_batch_bpd, summarise_batches
from vdm_lib.report import BpdReport
from vdm_lib.restore import newest_step, restore_ema
from vdm_lib.sharding import make_mesh
from vdm_lib.types import Params

# What an evaluation may change of a trained model: how it is measured, not what it is.
_MAY_CHANGE = ("eval.", "model.timesteps", "model.antithetic_time_sampling")


def run(
    workdir: str,
    data: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    step: str = "latest",
    split: str = "test",
    force: bool = False,
    allow_other_data: bool = False,
) -> EvalResult:
    """Measure checkpoints of a run that have no report of this kind yet, newest first.

    Args:
      workdir: run directory.
      data: data directory.
      overrides: values of eval.*, or model.timesteps for another number of steps T, that replace the run's own.
      step: a number, `latest`, or `all`.
      split: which images.
      force: measure again what has a report.
      allow_other_data: measure on other images than the run began with; the report's name then says so.

    Raises:
      CheckpointError: other data, or no such checkpoint; none at all is an error too, unless step is `all`.
      ConfigError: an override of something that was trained.
      DataError: data that cannot be read or that the model is not for.
    """
    overrides = overrides or {}
    trained = [key for key in overrides if not key.startswith(_MAY_CHANGE)]
    if trained:
        raise ConfigError(f"eval cannot change {trained[0]} of a trained run, only {', '.join(_MAY_CHANGE)}")
    own = run_dir.read_config(workdir)
    config = configs.override(own, overrides)
    kind = _kind(own, config, split)
    if step == "all":
        with Checkpoints(workdir) as checkpoints:
            steps = checkpoints.steps()[::-1]
    else:
        steps = [newest_step(workdir) if step == "latest" else int(step)]
    images = load_split(data, split)
    at_hand = run_dir.data_metadata(data)["data_fingerprints"]
    at_hand = {name: at_hand[name] for name in ("train", split) if name in at_hand}
    other_kind = f"{kind}-data={images.fingerprint[:8]}"
    reports = []
    for wanted in steps:
        report = None if force else run_dir.read_eval_report(workdir, wanted, kind)
        other = report is not None and report.data_fingerprint != images.fingerprint
        if other and not allow_other_data:
            raise CheckpointError(
                f"step {wanted} was evaluated on other {split} images: give that data directory, or --allow-other-data"
            )
        if report is None or other:
            restored = restore_ema(workdir, config, wanted)
            known = restored.metadata["data_fingerprints"]
            same = run_dir.check_same_data(known, at_hand, allow_other=allow_other_data)
            used = kind if same and not other else other_kind
            report = None if force or used == kind else run_dir.read_eval_report(workdir, wanted, used)
            if report is None:
                report = _measure(config, restored.params, images, wanted)
                run_dir.write_eval_report(workdir, report, used)
        reports.append(report)
    return EvalResult(workdir=workdir, reports=tuple(reports))


def run_reference(config: Config, source: str, workdir: str, data: str, *, split: str = "test") -> EvalResult:
    """Measure a checkpoint of google-research/vdm as it lies; only its EMA parameters are read.

    Args:
      config: the experiment that it was trained as.
      source: directory `checkpoints-0`, or one checkpoint in it without its extension; local or gs://.
      workdir: directory for the report.
      data: data directory.
      split: which images.

    Raises:
      CheckpointError: a checkpoint that cannot be read or is of another architecture.
      ConfigError: workdir belongs to a run of another config.
      DataError: data that cannot be read or that the model is not for.
    """
    images = load_split(data, split)
    expected = jax.eval_shape(VDM.from_config(config).init, jax.random.key(0))
    model = reference.read_model(source, expected)
    run_dir.open_run(workdir, config)
    report = _measure(config, model.ema_params, images, model.step)
    run_dir.write_eval_report(workdir, report, _kind(configs.load(config.name), config, split))
    return EvalResult(workdir=workdir, reports=(report,))


def _kind(own: Config, config: Config, split: str) -> str:
    """Return what distinguishes a measurement from the run's own way, such as `-passes=16`; empty for that one."""
    changed = {key: value for key, value in run_dir.differences(own, config).items() if key.startswith(_MAY_CHANGE)}
    if config.eval.protocol == "every_image":
        # It does not change the result.
        changed.pop("eval.batch_size", None)
    words = [f"-{key.split('.')[-1]}={value}" for key, value in changed.items()]
    return "".join(words) + ("" if split == "test" else f"-{split}")


def _measure(config: Config, params: Params, images: Split, step: int) -> BpdReport:
    mesh = make_mesh()
    reference_protocol = config.eval.protocol == "reference"
    total, unit = (NUM_BATCHES, "batch") if reference_protocol else (config.eval.passes, "pass")
    with Progress(f"eval {step}", total=total, unit=unit) as progress:
        progress.say(f"{len(images.images):,} {images.name} images; the first batch compiles")

        def on_unit(done: int) -> None:
            progress.advance()
            progress.report()

        if reference_protocol:
            batches = per_batch_bpd(config, config.eval, params, images, mesh, on_unit)
            return summarise_batches(batches, config, config.eval, images, step)
        terms = per_image_bpd(config, config.eval, params, images, mesh, on_unit)
        return summarise(terms, config, config.eval, images, step)
