"""The evaluation job: bits per dimension of checkpoints, with errors; one report per step, written once.

eval/STEP.json is the report, eval/STEP.parquet the terms of each image in each pass, eval/STEP.passes/ what a killed
evaluation has measured so far. Measurements that differ from the run's own way have it in their names.
"""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import jax

import configs
from pipelines import run_dir
from pipelines.evaluation.files import PassFiles, check_measured, eval_path, identity, write_parquet
from pipelines.evaluation.tables import columns_of
from pipelines.progress import Progress, tell, telling
from pipelines.results import EvalResult
from pipelines.stop import StopRequest, stop_on_signal
from vdm_lib import reference
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.config import Config
from vdm_lib.data import Split, load_split
from vdm_lib.errors import CheckpointError, ConfigError
from vdm_lib.evaluate import Subject, check_data
from vdm_lib.evaluation.measure import measure_split
from vdm_lib.evaluation.reference_protocol import NUM_BATCHES, per_batch_bpd, summarise_batches
from vdm_lib.files.checksums import params_digest
from vdm_lib.model import VDM
from vdm_lib.report import BpdReport
from vdm_lib.restore import newest_step, restore_ema
from vdm_lib.sharding import make_mesh
from vdm_lib.types import Params

# What an evaluation may change of a trained model: how it is measured, not what it is.
_MAY_CHANGE = ("eval.", "model.timesteps", "model.antithetic_time_sampling")
# What does not change a pass: how many there are, and how many images go through the network at once.
_NOT_OF_A_PASS = ("passes", "max_passes", "target_se", "batch_size")


class _StopAfterPass(Exception):  # noqa: N818 (not an error: the passes so far are kept)
    """A signal has asked for a stop."""


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
      ConfigError: an override of something that was trained, or an estimator that the model does not have.
      DataError: data that cannot be read or that the model is not for.
      DivergedError: losses that are not finite.
    """
    own = run_dir.read_config(workdir)
    config = overridden(own, overrides or {})
    newest = newest_step(workdir) if step == "latest" else None
    steps = _steps(workdir)[::-1] if step == "all" else [int(step) if newest is None else newest]
    images = load_split(data, split)
    check_data(config, images)
    at_hand = run_dir.data_metadata(data)["data_fingerprints"]
    job = _Job(
        workdir, own, images, {name: at_hand[name] for name in ("train", split) if name in at_hand},
        force, allow_other_data,
    )  # fmt: skip
    reports: list[BpdReport] = []
    with stop_on_signal() as stop:
        for wanted in steps:
            for each in _by_timesteps(config):
                try:
                    reports.append(job.report(each, wanted, stop))
                except CheckpointError:
                    # Training removes old checkpoints while the newer ones are being measured.
                    if step != "all" or wanted in _steps(workdir):
                        raise
                    print(f"vdm eval: checkpoint {wanted} was removed meanwhile, left out", file=sys.stderr, flush=True)
                    break
                except _StopAfterPass:
                    return EvalResult(workdir=workdir, reports=tuple(reports), stopped=True)
    return EvalResult(workdir=workdir, reports=tuple(reports))


@dataclass(frozen=True)
class _Job:
    """What all measurements of one call have in common."""

    workdir: str
    own: Config
    images: Split
    at_hand: Mapping[str, str]
    force: bool
    allow_other_data: bool

    def report(self, config: Config, step: int, stop: StopRequest) -> BpdReport:
        """Return the report of one step, made if it is not there."""
        workdir, images = self.workdir, self.images
        kind = kind_of(self.own, config, images.name)
        report = None if self.force else run_dir.read_eval_report(workdir, step, kind, split=images.name)
        other = report is not None and report.data_fingerprint != images.fingerprint
        if other and not self.allow_other_data:
            raise CheckpointError(
                f"step {step} was evaluated on other {images.name} images: "
                "give that data directory, or --allow-other-data"
            )
        if report is not None and not other and step not in _steps(workdir):
            # The report outlives its checkpoint, which training has removed.
            return _there_already(report, step)
        restored = restore_ema(workdir, config, step, raw=config.eval.params == "raw")
        if report is not None and not other:
            check_measured(report, restored.params, eval_path(workdir, step, kind, ".json"))
            return _there_already(report, step)
        known = restored.metadata["data_fingerprints"]
        same = run_dir.check_same_data(known, self.at_hand, allow_other=self.allow_other_data)
        if not same or other:
            kind += data_kind(images.fingerprint)
            report = None if self.force else run_dir.read_eval_report(workdir, step, kind, split=images.name)
            if report is not None:
                check_measured(report, restored.params, eval_path(workdir, step, kind, ".json"))
                return _there_already(report, step)
        return _measure(workdir, config, restored.params, images, step, kind, stop)


def _there_already(report: BpdReport, step: int) -> BpdReport:
    tell("eval", f"step {step} has this report: nothing was measured, --force measures again")
    return report


def _by_timesteps(config: Config) -> list[Config]:
    """Return one config for each of eval.timesteps, which then is the model's own."""
    counts = config.eval.timesteps or (config.model.timesteps,)
    return [
        replace(config, model=replace(config.model, timesteps=T), eval=replace(config.eval, timesteps=()))
        for T in counts
    ]


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
    if config.eval.params == "raw":
        raise ConfigError(
            "of a checkpoint of google-research/vdm only the averaged parameters are read: eval.params=ema"
        )
    images = load_split(data, split)
    check_data(config, images)
    expected = jax.eval_shape(VDM.from_config(config).init, jax.random.key(0))
    model = reference.read_model(source, expected)
    run_dir.open_run(workdir, config)
    reports: list[BpdReport] = []
    with stop_on_signal() as stop:
        for each in _by_timesteps(config):
            kind = kind_of(configs.load(config.name), each, split)
            try:
                reports.append(_measure(workdir, each, model.ema_params, images, model.step, kind, stop))
            except _StopAfterPass:
                return EvalResult(workdir=workdir, reports=tuple(reports), stopped=True)
    return EvalResult(workdir=workdir, reports=tuple(reports))


def overridden(own: Config, overrides: Mapping[str, Any]) -> Config:
    """Return the config of a run with other values for how it is measured.

    Raises:
      ConfigError: an override of something that was trained, or a value that cannot be.
    """
    trained = [key for key in overrides if not key.startswith(_MAY_CHANGE)]
    if trained:
        raise ConfigError(f"eval cannot change {trained[0]} of a trained run, only {', '.join(_MAY_CHANGE)}")
    return configs.override(own, overrides)


def _steps(workdir: str) -> list[int]:
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.steps()


def kind_of(own: Config, config: Config, split: str) -> str:
    """Return what distinguishes a measurement from the run's own way, such as `-passes=16`; empty for that one."""
    changed = {key: value for key, value in run_dir.differences(own, config).items() if key.startswith(_MAY_CHANGE)}
    if config.eval.protocol == "every_image":
        # It does not change the result.
        changed.pop("eval.batch_size", None)
    words = [f"-{key.split('.')[-1]}={value}" for key, value in changed.items()]
    return "".join(words) + ("" if split == "test" else f"-{split}")


def data_kind(fingerprint: str) -> str:
    """Return what distinguishes a measurement on other data than the run's own."""
    return f"-data={fingerprint[:8]}"


def _measure(
    workdir: str, config: Config, params: Params, images: Split, step: int, kind: str, stop: StopRequest
) -> BpdReport:
    """Measure one checkpoint and write its files, the report last.

    Raises:
      _StopAfterPass: on request; what is measured is kept.
    """
    mesh, evaluation = make_mesh(), config.eval
    subject = Subject(
        step=step,
        split=images.name,
        fingerprint=images.fingerprint,
        params=evaluation.params,
        digest=params_digest(params),
        code_version=run_dir.code_version(),
    )
    reference_protocol = evaluation.protocol == "reference"
    total, unit = (NUM_BATCHES, "batch") if reference_protocol else (_most_passes(config), "pass")
    with Progress(f"eval {step}", total=total, unit=unit) as progress, ExitStack() as first:
        progress.say(f"{len(images.images):,} {images.name} images")
        # Before the first pass lie compilations, the pilot and the denoisers of the control variates.
        first.enter_context(telling(progress.say, f"preparing, then the first {unit}"))

        def on_unit(done: int) -> None:
            first.close()
            progress.advance()
            progress.report()
            if stop.requested and reference_protocol:
                # Its batches are not kept, so there is nothing to go on from.
                raise KeyboardInterrupt
            if stop.requested and done < evaluation.passes:
                raise _StopAfterPass

        if reference_protocol:
            started = time.perf_counter()
            batches = per_batch_bpd(config, evaluation, params, images, mesh, on_unit)
            report = summarise_batches(batches, config, evaluation, subject, time.perf_counter() - started)
            run_dir.write_eval_report(workdir, report, kind)
            return report
        store = PassFiles(
            eval_path(workdir, step, kind, ".passes"),
            identity({**run_dir.eval_values(config, without=_NOT_OF_A_PASS), "digest": subject.digest,
                      "fingerprint": subject.fingerprint, "code_version": subject.code_version}),
        )  # fmt: skip
        measured = measure_split(config, params, images, mesh, subject, store=store, on_pass=on_unit)
    if jax.process_index() == 0:
        facts = {"checkpoint_digest": subject.digest, "data_fingerprint": subject.fingerprint}
        columns = columns_of(measured.estimator, measured.measurement)
        write_parquet(eval_path(workdir, step, kind, ".parquet"), columns, facts)
        run_dir.write_eval_report(workdir, measured.report, kind)
    store.remove()
    return measured.report


def _most_passes(config: Config) -> int:
    evaluation = config.eval
    return evaluation.passes if evaluation.target_se is None else max(evaluation.passes, evaluation.max_passes)
