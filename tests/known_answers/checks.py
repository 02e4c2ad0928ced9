"""The checks of the suite: an estimate against the truth in units of its own error."""

from dataclasses import replace

from tests.known_answers import truths
from tests.known_answers.models import Known
from vdm_lib.config import EvalConfig
from vdm_lib.evaluate import Estimator, Subject, measure, summarise
from vdm_lib.evaluation.bound import make_bound
from vdm_lib.evaluation.draws import Draws
from vdm_lib.evaluation.importance_weighted import ImportanceWeighted
from vdm_lib.evaluation.ode import OdeLikelihood
from vdm_lib.report import BpdReport

SUBJECT = Subject(step=0, split="test", fingerprint="0" * 64, params="ema", digest="1" * 64, code_version="0")
# What float32 in the model and the rule of a quadrature may cost, in bits per dimension.
ROUNDING = 2e-5


def report_of(estimator: Estimator, passes: int, seed: int = 0) -> BpdReport:
    evaluation = EvalConfig(passes=passes, seed=seed)
    return summarise(estimator, measure(estimator, evaluation, "test"), evaluation, SUBJECT)


def assert_within_errors(report: BpdReport, truth: float, slack: float = 0.0) -> None:
    """The estimate is within three of its own errors of the truth; slack is what a bias is allowed."""
    distance = abs(report.bpd - truth)
    assert distance < 3.0 * report.bpd_stderr + ROUNDING + slack, (
        f"{report.bpd:.5f} ± {report.bpd_stderr:.5f} is {distance / report.bpd_stderr:.1f} errors from {truth:.5f}"
    )


PLAIN, FITTED = ("uniform", "none"), ("importance", "linear_and_levels")


def bound_report(known: Known, *, passes: int = 8, seed: int = 0, how: tuple[str, str] = FITTED) -> BpdReport:
    return report_of(make_bound(known.model, known.runner(), seed, *how), passes, seed)


def draws_report(known: Known, estimate, *, passes: int = 8, seed: int = 0) -> BpdReport:
    return report_of(Draws(estimate, known.runner(), seed, known.model.data.num_dims), passes, seed)


def check_bound(known: Known, *, passes: int = 8, how: tuple[str, str] = FITTED) -> None:
    report = bound_report(known, passes=passes, how=how)
    assert_within_errors(report, truths.bound(known, known.model.model.timesteps))


def check_chain(known: Known, *, passes: int = 8) -> None:
    report = draws_report(known, ImportanceWeighted(known.model, 1), passes=passes)
    assert_within_errors(report, truths.bound(known, known.model.model.timesteps))


ODE = {"steps": 0, "tolerance": 1e-5, "trace": "rademacher", "dequantisation": "decoder", "samples": 1}


def check_ode(known: Known, *, passes: int = 8, slack: float = 0.0, **settings) -> None:
    estimate = OdeLikelihood(model=known.model, **{**ODE, **settings})
    truth = truths.ode_bound(known, estimate.dequantisation)
    assert_within_errors(draws_report(known, estimate, passes=passes), truth, slack)


def few(known: Known, num_images: int) -> Known:
    return replace(known, images=known.images[:num_images])
