"""The likelihood by the ODE against its exact value, for every kind of step, trace and dequantisation."""

import jax
import numpy as np
import pytest
from scipy.stats import chi2

from tests.known_answers import truths
from tests.known_answers.checks import ODE, assert_within_errors, check_ode, draws_report
from tests.known_answers.models import gaussian, mixture
from vdm_lib.evaluation.ode import OdeLikelihood

GAUSSIAN = gaussian(100)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trace": "exact", "dequantisation": "truncated_normal"},
        # The error of fifty steps of fifth order is far below the bound's own.
        {"steps": 50, "trace": "exact"},
        {"steps": 50, "dequantisation": "truncated_normal"},
    ],
)
def test_the_bound_of_one_sample(settings):
    check_ode(GAUSSIAN, **settings)


def test_many_samples_come_near_the_likelihood():
    exact = truths.likelihood(GAUSSIAN)
    estimate = OdeLikelihood(model=GAUSSIAN.model, **{**ODE, "steps": 30, "trace": "exact", "samples": 64})
    report = draws_report(GAUSSIAN, estimate, passes=4)
    bound = truths.ode_bound(GAUSSIAN, "decoder")
    assert exact < bound
    assert exact - 3 * report.bpd_stderr < report.bpd < bound - 0.8 * (bound - exact)


def test_a_mixture_by_quadrature():
    known = mixture(1, 100)
    estimate = OdeLikelihood(model=known.model, **{**ODE, "trace": "exact"})
    assert_within_errors(draws_report(known, estimate), truths.mixture_ode_bound(known), slack=1e-3)


def test_the_stated_error_is_the_spread_over_seeds():
    seeds = 40
    estimate = OdeLikelihood(model=GAUSSIAN.model, **{**ODE, "steps": 50, "dequantisation": "truncated_normal"})
    reports = [draws_report(GAUSSIAN, estimate, passes=2, seed=seed) for seed in range(seeds)]
    variance = np.var([report.bpd for report in reports], ddof=1)
    stated = np.mean([report.bpd_stderr**2 for report in reports])
    low, high = chi2.ppf([0.001, 0.999], seeds - 1) / (seeds - 1)
    assert 0.8 * low < variance / stated < 1.2 * high


def test_a_solver_that_gives_up_is_no_number():
    estimate = OdeLikelihood(model=GAUSSIAN.model, **{**ODE, "tolerance": 1e-30})
    nats = GAUSSIAN.runner()(estimate, np.zeros(100, np.float32), jax.random.key(0))
    assert np.all(np.isnan(nats))
