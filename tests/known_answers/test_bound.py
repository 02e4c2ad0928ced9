"""The bound against its exact value: in continuous time, with T steps, and from chains."""

import numpy as np
import pytest
from scipy.stats import chi2

from tests.known_answers import truths
from tests.known_answers.checks import FITTED, PLAIN, bound_report, check_bound, check_chain, draws_report
from tests.known_answers.models import gaussian, mixture
from vdm_lib.evaluation.importance_weighted import ImportanceWeighted

KNOWN = {"gaussian": gaussian(), "mixture in 1-D": mixture(1), "mixture in 2-D": mixture(2, 120)}


@pytest.mark.parametrize("how", [PLAIN, FITTED])
@pytest.mark.parametrize("name", KNOWN)
def test_the_bound_in_continuous_time(name, how):
    check_bound(KNOWN[name], how=how)


@pytest.mark.parametrize("timesteps", [4, 30])
def test_the_bound_of_a_chain(timesteps):
    check_bound(KNOWN["gaussian"].with_timesteps(timesteps))


def test_the_bound_falls_to_continuous_time_with_the_first_order():
    known = KNOWN["gaussian"]
    limit = truths.bound(known)
    steps = np.array([64, 128, 256, 512])
    gaps = np.array([truths.bound(known, int(T)) for T in steps]) - limit
    assert np.all(gaps > 0.0)
    orders = np.log2(gaps[:-1] / gaps[1:])
    np.testing.assert_allclose(orders, 1.0, atol=0.05)
    # And the estimates see it: twice the steps, half the gap, which is far above its error.
    gaps = []
    for T in (16, 32):
        report = bound_report(known.with_timesteps(T), passes=16)
        gaps.append(report.bpd - limit)
        assert gaps[-1] > 5 * report.bpd_stderr
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.25)


@pytest.mark.slow  # sixty measurements each
@pytest.mark.parametrize(
    ("how", "passes"),
    [(PLAIN, 2), (FITTED, 2), (FITTED, 4)],
)
def test_the_stated_error_is_the_spread_over_seeds(how, passes):
    known, seeds = KNOWN["mixture in 2-D"], 60
    reports = [bound_report(known, passes=passes, seed=seed, how=how) for seed in range(seeds)]
    variance = np.var([report.bpd for report in reports], ddof=1)
    stated = np.mean([report.bpd_stderr**2 for report in reports])
    # 0.1 % on each side of a variance from 60 draws; the stated error may be 10 % off beside.
    low, high = chi2.ppf([0.001, 0.999], seeds - 1) / (seeds - 1)
    assert 0.8 * low < variance / stated < 1.2 * high
    truth = truths.bound(known)
    assert abs(np.mean([report.bpd for report in reports]) - truth) < 3.5 * np.sqrt(stated / seeds)


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_fitted_is_never_much_worse(name):
    plain, fitted = (
        np.mean([bound_report(KNOWN[name], passes=4, seed=seed, how=how).bpd_stderr ** 2 for seed in range(8)])
        for how in (PLAIN, FITTED)
    )
    # Each variance has 8 x 600 degrees of freedom: a deviation of 2 %, more for heavy tails.
    assert fitted < 1.1 * plain


def test_one_chain_estimates_the_bound_and_many_the_likelihood():
    known = gaussian(100).with_timesteps(12)
    check_chain(known)
    exact, bound = truths.likelihood(known, 12), truths.bound(known, 12)
    many = draws_report(known, ImportanceWeighted(known.model, 256), passes=4)
    assert exact < bound
    assert exact - 3 * many.bpd_stderr < many.bpd < bound - 0.8 * (bound - exact)
