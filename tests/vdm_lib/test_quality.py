import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vdm_lib.quality import fid, fid_with_error, kid, kid_with_error, nearest, precision_recall, share

RNG = np.random.default_rng(0)


def test_fid_of_normals_is_the_closed_form():
    """Commuting covariances: |m|^2 + sum of (s_x - s_y)^2, with the sample moments set exactly."""
    raw = RNG.normal(size=(500, 4))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    x, y = white * [1.0, 2.0, 0.5, 1.0] + [1.0, 0.0, -2.0, 0.0], white * [2.0, 1.0, 0.5, 3.0]
    assert fid(x, y) == pytest.approx(1.0 + 4.0 + 1.0 + 1.0 + 0.0 + 4.0, rel=1e-9)
    rotation = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    assert fid(x @ rotation, y @ rotation) == pytest.approx(fid(x, y), rel=1e-9)
    assert fid(x, x) == pytest.approx(0.0, abs=1e-9)


def test_fid_of_covariances_that_do_not_commute():
    x, y = RNG.normal(size=(50, 3)) @ RNG.normal(size=(3, 3)), RNG.normal(size=(60, 3)) @ RNG.normal(size=(3, 3))
    product = np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)
    values = np.linalg.eigvals(product)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False))
    assert fid(x, y) == pytest.approx(expected - 2 * np.sqrt(values.real).sum(), rel=1e-8)


def test_fid_of_more_dimensions_than_images_is_finite():
    assert 0.0 < fid(RNG.normal(size=(20, 64)), RNG.normal(size=(20, 64))) < 200.0


def test_the_bootstrap_error_of_fid_falls_with_the_number_of_images():
    errors = [
        fid_with_error(RNG.normal(size=(n, 2)), RNG.normal(1.0, size=(n, 2)), np.random.default_rng(1)).stderr
        for n in (50, 5000)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_kid_is_the_double_sum_over_distinct_pairs():
    x, y = RNG.normal(size=(5, 3)), RNG.normal(size=(7, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    own = [np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    between = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y) == pytest.approx(sum(own) - 2 * between, rel=1e-12)


def test_kid_of_sets_alike_is_zero_within_its_spread_and_not_of_sets_apart():
    x, y = RNG.normal(size=(400, 4)), RNG.normal(size=(400, 4))
    drawn = [kid(*np.split(RNG.permutation(np.concatenate([x, y])), 2)) for _ in range(50)]
    assert min(drawn) - np.ptp(drawn) < kid(x, y) < max(drawn) + np.ptp(drawn)
    apart = kid_with_error(x, y + 1.0, np.random.default_rng(0), subsets=20, size=100)
    assert apart.value > 10 * apart.stderr


@given(n=st.integers(1, 300), share_of_n=st.floats(0.0, 1.0))
def test_the_error_of_a_share_is_that_of_what_is_known_of_it(n, share_of_n):
    k = round(share_of_n * n)
    measured = share(np.arange(n) < k)
    assert measured.value == k / n
    assert measured.stderr == pytest.approx(scipy.stats.beta(k + 1, n - k + 1).std())


def test_precision_and_recall_tell_missing_modes_from_wrong_samples():
    modes = [RNG.normal(center, 0.1, size=(200, 2)) for center in (0.0, 5.0)]
    both = np.concatenate(modes)
    half = RNG.normal(0.0, 0.1, size=(400, 2))
    precision, recall = precision_recall(half, both)
    assert precision.value > 0.9
    assert recall.value == pytest.approx(0.5, abs=0.05)
    precision, recall = precision_recall(both + 100.0, both)
    assert (precision.value, recall.value) == (0.0, 0.0)
    assert [part.value for part in precision_recall(both, both)] == [1.0, 1.0]


def test_nearest_finds_copies_and_the_right_ones():
    others = RNG.integers(0, 17, size=(300, 64)).astype(np.float64)
    points = others[[7, 120]]
    points[1, 0] += 8.0
    distance, which = nearest(points, others)
    np.testing.assert_array_equal(which, [7, 120])
    assert distance.tolist() == [0.0, 1.0]
