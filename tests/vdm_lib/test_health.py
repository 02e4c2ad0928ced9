import math

import pytest

from vdm_lib.errors import DivergedError
from vdm_lib.health import Health, wrong_term


def row(bpd: float = 3.0, **changes: float) -> dict[str, float]:
    return {"bpd": bpd, "bpd_recon": 0.1, "bpd_latent": 0.2, "bpd_diff": bpd - 0.3, "gradient_norm": 1.0, **changes}


def test_the_offending_term_is_where_it_began():
    assert wrong_term(row()) is None
    assert wrong_term(row(math.nan, bpd_recon=0.1, bpd_diff=math.nan, gradient_norm=math.nan)) == "bpd_diff"
    assert wrong_term(row(gradient_norm=math.inf)) == "gradient_norm"
    assert wrong_term(row(gamma_0=-math.inf)) == "gamma_0"


def test_a_value_that_is_not_finite_stops_with_its_step():
    with pytest.raises(DivergedError, match=r"step 12: bpd_latent is nan.*on_nan=skip"):
        Health("stop", 0).check([row(), row(math.nan, bpd_latent=math.nan)], first_step=11)


def test_skipped_updates_are_left_out_up_to_the_limit():
    bad = row(gradient_norm=math.nan)
    health = Health("skip", 3, skipped_before=1)
    assert health.check([row(1.0), bad, row(2.0), bad], first_step=1) == [row(1.0), row(2.0)]
    assert health.skipped == 3
    with pytest.raises(DivergedError, match=r"step 5: gradient_norm is nan, and 4 updates .*max_skipped_steps=3"):
        health.check([bad], first_step=5)


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_bpd_over_ten_times_the_median_stops(on_nan):
    health = Health(on_nan, 0)
    # The first steps may be anything.
    health.check([row(50.0), row(900.0), *[row(3.0)] * 40], first_step=1)
    assert health.check([row(29.9)], first_step=43) == [row(29.9)]
    with pytest.raises(DivergedError, match=r"step 44: bpd is 30.1, over 10 times the median 3 .*bpd_diff=29.8"):
        health.check([row(30.1)], first_step=44)


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_end_points_that_cross_stop_with_their_step(on_nan):
    good, equal = row(gamma_0=-1.0, gamma_1=0.5), row(gamma_0=0.5, gamma_1=0.5)
    health = Health(on_nan, 3)
    assert health.check([good], first_step=1) == [good]
    with pytest.raises(DivergedError, match=r"step 8: the end points of gamma have crossed.*optim.learning_rate"):
        health.check([good, equal], first_step=7)
