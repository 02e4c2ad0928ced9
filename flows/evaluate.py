"""The flow vdm-eval: every checkpoint without a report is measured once, newest first."""

import base64
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.states import Completed

from flows import run_view
from flows.comparison import best_of, regression, rows
from flows.job import JobError, run_job, vdm
from flows.one_at_a_time import one_evaluation_of
from flows.parameters import data_dir, slug, work_dir
from flows.pictures import sample_grid
from flows.places import stop_leftovers
from flows.redaction import redact
from pipelines import run_dir
from vdm_lib.config import Config
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.files.records import read_manifest
from vdm_lib.images import eval_curve
from vdm_lib.report import BpdReport, with_error

REGRESSED = "vdm.eval.regressed"


@flow(name="vdm-eval", on_cancellation=[stop_leftovers], on_crashed=[stop_leftovers])
def vdm_eval(
    workdir: str | None = None,
    data: str | None = None,
    runs: str = "runs",
    samples: int = 16,
    sample_steps: int = 64,
) -> Any:
    """Measure every checkpoint that has no report, and show all reports of its run.

    Args:
      workdir: Run directory; by default all runs below RUNS, one after the other.
      data: Data directory; default data/NAME of the run's data set.
      runs: Directory of run directories, for when no workdir is given.
      samples: Images in the picture of the newest measured checkpoint; 0 draws none.
      sample_steps: Sampling steps of each of them.
    """
    if workdir is None:
        if data is not None:
            raise ConfigError("data belongs to one run: give workdir too")
        places = run_view.runs_below(runs)
    else:
        places = [work_dir(workdir, "")]
    done: list[str] = []
    problems: list[str] = []
    for place in places:
        try:
            measured = evaluate_run(place, data, samples, sample_steps)
        except VdmError as error:
            # The runs after it are measured all the same.
            get_run_logger().error("%s: %s", place, error)
            problems.append(f"{place}: {error}")
            continue
        if measured:
            done.append(f"{place} at {', '.join(str(report.step) for report in measured)}")
    if problems:
        raise JobError("; ".join(problems))
    if not done:
        return Completed(name="Skipped", message="every checkpoint has its report")
    return Completed(message=f"measured {'; '.join(done)}")


def evaluate_run(workdir: str, data: str | None, samples: int, sample_steps: int) -> list[BpdReport]:
    """Measure what has no report in one run and publish the result; return the new reports, oldest first.

    Raises:
      VdmError: no run or no data there, or the job failed.
    """
    config = run_dir.read_config(workdir)
    data = data_dir(data, config)
    with one_evaluation_of(workdir):
        before = {report.step for report in run_view.reports(workdir)}
        if not run_view.steps_without_report(workdir):
            return []
        read_manifest(data)
        job = vdm("eval", "--workdir", workdir, "--data", data, "--step", "all", workdir=workdir)
        run_job(f"evaluate {workdir}", job)
        reports = run_view.reports(workdir)
        measured = [report for report in reports if report.step not in before]
        if not measured:
            return []
        picture = sample_grid(workdir, measured[-1].step, samples, sample_steps) if samples else None
    announce_regressions(workdir, measured, reports)
    publish(workdir, config, reports, picture)
    return measured


def announce_regressions(workdir: str, measured: list[BpdReport], reports: list[BpdReport]) -> None:
    """Emit an event for each new report that is worse than the best before it by more than 2 errors."""
    for report in measured:
        found = regression(report, reports)
        if found is None:
            continue
        best, worse, error = found
        text = f"step {report.step} is worse than step {best.step} by {with_error(worse, error)} bits/dim"
        get_run_logger().warning("%s", text)
        emit_event(
            REGRESSED,
            resource={"prefect.resource.id": f"vdm.run.{slug(workdir)}", "prefect.resource.name": workdir},
            payload={
                "workdir": workdir, "step": report.step, "best_step": best.step, "bpd": report.bpd,
                "difference": worse, "difference_stderr": error, "text": text,
            },
        )  # fmt: skip


def publish(workdir: str, config: Config, reports: list[BpdReport], picture: bytes | None) -> None:
    """Make the artifacts of a run: the table, the report with the curve and the samples, the samples alone."""
    key, best = slug(workdir), best_of(reports)
    create_table_artifact(rows(reports), key=f"bpd-{key}", description=redact(f"bits/dim of {workdir}, by checkpoint"))
    training = run_view.metrics(workdir)
    curve = eval_curve(
        ([int(row["step"]) for row in training], [row["bpd"] for row in training]),
        [(report.step, report.bpd, report.bpd_stderr) for report in reports],
        title=f"{config.name}: test bits per dimension",
    )
    text = f"# {workdir}\n\nBest: step {best.step:,}, {best}.\n\n![training and test bits/dim]({as_uri(curve)})\n"
    if picture is not None:
        newest = reports[-1].step
        text += f"\nSamples of step {newest:,}, not selected:\n\n![samples]({as_uri(picture)})\n"
        create_image_artifact(as_uri(picture), key=f"samples-{key}", description=f"samples of step {newest:,}")
    create_markdown_artifact(redact(text), key=f"report-{key}", description=f"evaluation of {workdir}")


def as_uri(png: bytes) -> str:
    """Return a PNG as an address that holds it, so that no bucket is needed to show it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
