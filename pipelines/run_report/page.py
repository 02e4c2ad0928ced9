"""The report's tables and the page around them, for one run or for several."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

import configs
from pipelines.run_dir import differences
from pipelines.run_report.plots import plots
from pipelines.run_report.record import Picture, Run
from vdm_lib.report import BpdReport, digits_of, with_error

_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("pipelines.run_report", ""), autoescape=True, undefined=jinja2.StrictUndefined
)

_MOST_EVALUATIONS = 30


@dataclass(frozen=True)
class Table:
    """A table under a title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def page_of_run(run: Run, data: Mapping[str, Any] | None) -> str:
    """Return the page of one run.

    Args:
        run: its record.
        data: stats.json of its data directory, None if it is not at hand.
    """
    tables = [_numbers(run), _evaluations(run)]
    tables += [_data(run)] if data is None else [_data(run), _statistics(data)]
    return _render(
        f"Run {run.name}",
        f"Experiment {run.config.name}: {run.data_set}",
        tables,
        [run],
        run.pictures,
        [("Config", configs.to_json(run.config)), ("Provenance", json.dumps(run.provenance, indent=2))],
    )


def page_of_runs(runs: Sequence[Run]) -> str:
    """Return the page that shows runs beside each other; differences are against the first."""
    newest = [Picture(f"{run.name}: {run.pictures[-1].title}", run.pictures[-1].png) for run in runs if run.pictures]
    return _render(
        "Runs " + ", ".join(run.name for run in runs),
        f"{len(runs)} runs; differences are against {runs[0].name}{_mixed(runs)}",
        [_comparison(runs), _changes(runs)],
        runs,
        newest,
        [],
    )


def _mixed(runs: Sequence[Run]) -> str:
    """Return a warning if the bits per dimension of the runs are of different images."""
    if len({run.data_set for run in runs}) > 1:
        return ". These runs are on different data sets: their bits/dim and losses do not compare"
    if len({run.own_reports[-1].data_fingerprint for run in runs if run.own_reports}) > 1:
        return ". These runs were measured on different images: their measured bits/dim do not compare"
    return ""


def _render(
    title: str,
    subtitle: str,
    tables: Sequence[Table],
    runs: Sequence[Run],
    pictures: Sequence[Picture],
    texts: Sequence[tuple[str, str]],
) -> str:
    return _PAGE.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        tables=[table for table in tables if table.rows],
        plots=plots(runs),
        pictures=pictures,
        texts=texts,
    )


def _last(run: Run, column: str) -> float | None:
    values = run.columns.get(column, np.array([]))
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else None


def _bpd(report: BpdReport | None) -> str:
    return "not measured" if report is None else with_error(report.bpd, report.bpd_stderr)


def _bpd_and_step(report: BpdReport | None) -> str:
    return _bpd(report) + ("" if report is None else f" bits/dim, step {report.step:,}")


def _numbers(run: Run) -> Table:
    reports = run.own_reports
    newest = reports[-1] if reports else None
    best = min(reports, key=lambda report: report.bpd) if reports else None
    rows = [("bpd of the newest evaluation", _bpd_and_step(newest))]
    if newest and newest.bpd_test_set_stderr is not None:
        error = newest.bpd_test_set_stderr
        rows.append(("its error for another test set", f"± {error:.{digits_of(error)}f}"))
    parts = (newest.bpd_recon, newest.bpd_latent, newest.bpd_diff) if newest else ()
    if newest and parts and None not in parts:
        digits = digits_of(newest.bpd_stderr)
        rows.append(("reconstruction, prior, diffusion", ", ".join(f"{part:.{digits}f}" for part in parts)))
    if best and newest and best.step != newest.step:
        rows.append(("smallest bpd", _bpd_and_step(best)))
    for column, name, form in (
        ("step", "steps trained", "{:,.0f}"),
        ("bpd", "training bpd, last row (with dropout)", "{:.4g}"),
        ("steps_per_s", "steps per second, last row", "{:.3g}"),
        ("gradient_norm", "gradient norm, last row", "{:.3g}"),
    ):
        value = _last(run, column)
        if value is not None:
            rows.append((name, form.format(value)))
    return Table("Numbers", ("", ""), rows, "± is the Monte Carlo standard error.")


def _evaluations(run: Run) -> Table:
    newest = list(run.reports.items())[: -_MOST_EVALUATIONS - 1 : -1]
    rows = [
        (
            f"{report.step:,}",
            with_error(report.bpd, report.bpd_stderr),
            "" if report.var_bpd is None else with_error(report.var_bpd, report.var_bpd_stderr or 0.0),
            f"{report.num_images:,} {report.split} x {report.passes}",
            # What a name says beside the step is how it was measured.
            name.removesuffix(".json").removeprefix(str(report.step)).lstrip("-"),
        )
        for name, report in newest
    ]
    note = f"The newest {len(newest)} of {len(run.reports):,}." if len(newest) < len(run.reports) else ""
    return Table("Evaluations", ("step", "bits/dim", "var_bpd", "images x passes", "otherwise"), rows, note)


def _data(run: Run) -> Table:
    rows = [(report.split, report.data_fingerprint) for report in run.reports.values()]
    return Table("Data that was measured", ("split", "fingerprint (SHA-256)"), list(dict.fromkeys(rows)))


def _statistics(data: Mapping[str, Any]) -> Table:
    # A column for each split: so it fits a telephone.
    splits = data["splits"]
    rows = [
        ("images", *(f"{split['num_images']:,}" for split in splits.values())),
        ("mean by channel", *(", ".join(f"{value:.3f}" for value in split["mean"]) for split in splits.values())),
        ("std by channel", *(", ".join(f"{value:.3f}" for value in split["std"]) for split in splits.values())),
        ("duplicates", *(f"{split['duplicates']:,}" for split in splits.values())),
        ("classes", *(_classes(split["class_counts"]) for split in splits.values())),
    ]
    return Table("Data statistics", ("", *splits), rows, "Means and deviations on a scale of 0 to 1.")


def _classes(counts: Sequence[int]) -> str:
    """Return how many images the classes have; a thousand numbers would say no more."""
    if not counts:
        return "none"
    least, most = min(counts), max(counts)
    return f"{len(counts):,}, each {least:,}" if least == most else f"{len(counts):,}, of {least:,} to {most:,} images"


def _comparison(runs: Sequence[Run]) -> Table:
    first = runs[0].own_reports[-1] if runs[0].own_reports else None
    rows = []
    for run in runs:
        report = run.own_reports[-1] if run.own_reports else None
        training, speed = _last(run, "bpd"), _last(run, "steps_per_s")
        rows.append(
            (
                run.name,
                f"{_last(run, 'step') or 0:,.0f}",
                _bpd(report),
                _difference(report, first),
                "" if training is None else f"{training:.4g}",
                "" if speed is None else f"{speed:.3g}",
            )
        )
    head = ("run", "steps", "bits/dim", "difference", "training bpd", "steps/s")
    return Table("Runs", head, rows, "± is the Monte Carlo standard error; a difference has that of both.")


def _difference(report: BpdReport | None, first: BpdReport | None) -> str:
    if report is None or first is None or report is first:
        return ""
    if report.data_fingerprint != first.data_fingerprint:
        return "other images"
    return with_error(report.bpd - first.bpd, math.hypot(report.bpd_stderr, first.bpd_stderr))


def _changes(runs: Sequence[Run]) -> Table:
    first = runs[0].config
    changed = [differences(first, run.config) for run in runs]
    keys = sorted({key for change in changed for key in change})
    # What the first has is what any other's difference from it would be if seen from there.
    own = {key: value for run in runs for key, value in differences(run.config, first).items()}
    rows = [(key, *(str(change.get(key, own.get(key))) for change in changed)) for key in keys]
    return Table("What the configs differ in", ("value", *(run.name for run in runs)), rows)
