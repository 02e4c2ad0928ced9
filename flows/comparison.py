"""Checkpoints of one run beside each other: which is best, by how much, with which error."""

import math
from collections.abc import Sequence

from vdm_lib.report import BpdReport, with_error

LARGEST_ERRORS = 2.0
"""A difference of more standard errors than this is not taken for noise."""


def best_of(reports: Sequence[BpdReport]) -> BpdReport:
    """Return the report with the lowest bpd."""
    return min(reports, key=lambda report: report.bpd)


def difference(report: BpdReport, other: BpdReport) -> tuple[float, float]:
    """Return bpd of one report minus that of another, and the standard error of that.

    Both errors are taken as independent. Two checkpoints of a run are measured with the same noise, so that the
    error is rather smaller.
    """
    return report.bpd - other.bpd, math.hypot(report.bpd_stderr, other.bpd_stderr)


def comparable(report: BpdReport, other: BpdReport) -> bool:
    """Say whether two reports are about the same images and the same bound."""
    facts = ("split", "data_fingerprint", "timesteps", "protocol", "estimator")
    return all(getattr(report, name) == getattr(other, name) for name in facts)


def regression(report: BpdReport, reports: Sequence[BpdReport]) -> tuple[BpdReport, float, float] | None:
    """Return the best earlier report, the difference and its error, if this one is worse by more than noise."""
    earlier = [other for other in reports if other.step < report.step and comparable(report, other)]
    if not earlier:
        return None
    best = best_of(earlier)
    worse, error = difference(report, best)
    return (best, worse, error) if worse > LARGEST_ERRORS * error else None


def rows(reports: Sequence[BpdReport]) -> list[dict[str, str | int]]:
    """Return one row of a table for each report, newest first."""
    best = best_of(reports)
    table = []
    for report in sorted(reports, key=lambda report: -report.step):
        if report is best:
            against = "best"
        else:
            against = with_error(*difference(report, best)) if comparable(report, best) else "not comparable"
        table.append(
            {
                "step": report.step,
                "bpd": with_error(report.bpd, report.bpd_stderr),
                "difference to the best": against,
                "images": f"{report.num_images} {report.split} x {report.passes}",
            }
        )
    return table
