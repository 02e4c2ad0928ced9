"""The flow vdm-export: the best checkpoint, or a given one, to a bundle that is verified and perhaps promoted."""

import json
from typing import Any

from etils import epath
from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.states import Completed

from flows import run_view
from flows.comparison import best_of
from flows.job import JobError, run_job, vdm
from flows.links import link_to
from flows.parameters import slug, work_dir
from flows.places import stop_leftovers
from flows.redaction import redact
from pipelines import run_dir
from pipelines.bundle.check import SUMS
from pipelines.registry import Change, Model, version_of
from vdm_lib.errors import CheckpointError, ConfigError
from vdm_lib.report import with_error


@flow(name="vdm-export", on_cancellation=[stop_leftovers], on_crashed=[stop_leftovers])
def vdm_export(
    workdir: str = "runs/digits",
    step: int | None = None,
    data: str | None = None,
    out: str | None = None,
    registry: str | None = "registry",
    name: str | None = None,
    why: str = "exported by vdm-export",
    measure_again: bool = False,
    samples: int | None = None,
    sample_steps: int | None = None,
) -> Any:
    """Export a checkpoint, verify the bundle, and promote it if it is not worse than the promoted one.

    Args:
      workdir: Run directory.
      step: Step of the checkpoint; by default the one with the lowest bits/dim among those that are measured.
      data: Data directory, for the version of the data set on the model card.
      out: Bundle to make; default WORKDIR/export/STEP.
      registry: Directory of published models, local or gs://; null publishes nothing.
      name: Name of the model in the registry; default the experiment.
      why: For the registry's history.
      measure_again: Measure bits/dim again from the bundle itself, and compare; needs data.
      samples: Images in the bundle's samples.png; by default 64, or what a CPU draws in about a minute.
      sample_steps: Sampling steps of each; by default likewise 250 or less.
    """
    if measure_again and data is None:
        raise ConfigError("measure_again needs the data: give the data directory")
    workdir = work_dir(workdir, "")
    experiment = run_dir.read_config(workdir).name
    step = best_step(workdir) if step is None else step
    out = out or f"{workdir}/export/{step}"
    model = None if registry is None else Model(registry, name or experiment)
    bundle_is_there = (epath.Path(out) / SUMS).exists()
    if model is not None and bundle_is_there and (decided := decision(model, out)) is not None:
        return publish(workdir, out, decided, skipped=True)
    if not bundle_is_there:
        given = {"--data": data, "--samples": samples, "--sample-steps": sample_steps}
        words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
        words = ["--workdir", workdir, "--step", str(step), "--out", out, *words]
        run_job(f"export step {step}", vdm("export", *words, workdir=workdir))
    if model is None or measure_again:
        # Otherwise the promotion verifies just as much.
        again = ["--data", str(data)] if measure_again else []
        run_job(f"verify {out}", vdm("verify", out, *again, workdir=workdir))
    if model is None:
        return publish(workdir, out, None, skipped=bundle_is_there)
    words = [out, "--registry", str(registry), "--name", model.name, "--why", why]
    try:
        run_job(f"promote {out}", vdm("promote", *words, workdir=workdir))
    except JobError:
        decided = decision(model, out)
        if decided is None or decided.action != "refuse":
            raise
        get_run_logger().warning("not promoted: %s", decided.why)
    return publish(workdir, out, decision(model, out), skipped=False)


def best_step(workdir: str) -> int:
    """Return the step with the lowest bpd among the checkpoints that are still there.

    Raises:
      CheckpointError: none of them is measured.
    """
    there = set(run_view.checkpoint_steps(workdir))
    reports = [report for report in run_view.reports(workdir) if report.step in there]
    if not reports:
        raise CheckpointError(f"{workdir} has no measured checkpoint: run vdm-eval first, or give step")
    return best_of(reports).step


def decision(model: Model, bundle: str) -> Change | None:
    """Return what the registry decided about a bundle with regard to what is promoted now, None if nothing yet."""
    version = version_of(epath.Path(bundle))
    promoted = model.pointer("promoted")
    for change in reversed(model.history()):
        if change.version != version:
            continue
        if change.action in ("promote", "rollback") and promoted == version:
            return change
        if change.action == "refuse" and change.before == promoted:
            return change
    return None


def publish(workdir: str, bundle: str, decided: Change | None, *, skipped: bool) -> Any:
    """Make the link and the report of an export, and return the flow's state."""
    metrics = json.loads((epath.Path(bundle) / "metrics.json").read_text())
    bpd = "not measured" if metrics["bpd"] is None else f"{with_error(metrics['bpd'], metrics['bpd_stderr'])} bits/dim"
    outcome = {
        None: "not published",
        "promote": "promoted",
        "rollback": "promoted",
        "refuse": "in the registry, not promoted",
    }[None if decided is None else decided.action]
    reason = f"\n\n{decided.why}" if decided is not None and decided.why else ""
    key = slug(workdir)
    create_link_artifact(link_to(bundle), link_text=bundle, key=f"bundle-{key}", description=f"verified bundle, {bpd}")
    card = epath.Path(bundle) / "README.md"
    text = f"# {bundle}\n\n{outcome}: {bpd}{reason}\n" + (f"\n---\n\n{card.read_text()}" if card.exists() else "")
    create_markdown_artifact(redact(text), key=f"export-{key}", description=f"export of {workdir}")
    if decided is not None and decided.action == "refuse":
        return Completed(name="NotPromoted", message=redact(decided.why))
    return Completed(name="Skipped" if skipped else "Completed", message=f"{bundle} is verified and {outcome}")
