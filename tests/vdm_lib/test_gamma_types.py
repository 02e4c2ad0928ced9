import numpy as np
import pytest

from vdm_lib.errors import CheckpointError
from vdm_lib.gamma_types import check_end_points, from_line, other_gamma_type

MONOTONE = ("gamma_0", "gamma_1", "weights", "centres", "steepnesses")
LIKE = {name: np.empty(32 if i > 1 else (), np.float32) for i, name in enumerate(MONOTONE)}


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ((), "fixed"),
        (("w", "b"), "learnable_scalar"),
        (("l1", "l2", "l3"), "learnable_nnet"),
        (MONOTONE[:4], "unknown"),
    ],
)
def test_another_schedule_is_named(found, named):
    words = f"its schedule is model.gamma_type={named}, that of the config is model.gamma_type=learnable_monotone"
    assert other_gamma_type(found, MONOTONE) == words
    assert other_gamma_type(MONOTONE, MONOTONE) == ""


@pytest.mark.parametrize("gamma_1", [-6.0, -7.0, np.nan])
def test_end_points_that_do_not_rise_are_refused(gamma_1):
    ends = {"gamma_0": np.float32(-6.0), "gamma_1": np.float32(gamma_1)}
    with pytest.raises(CheckpointError, match="a run: the end points of gamma have crossed, gamma_0=-6, gamma_1="):
        check_end_points({"gamma": ends}, "a run")
    check_end_points({"gamma": ends | {"gamma_1": np.float32(-5.9)}}, "a run")
    # Of another schedule they are no parameters.
    check_end_points({"gamma": {"w": np.ones(1), "b": np.ones(1)}}, "a run")


@pytest.mark.parametrize("w", [11.0, -11.0])
def test_a_line_gives_its_end_points_and_no_interior(w):
    made = from_line({"w": np.float32([w]), "b": np.float32([-6.0])}, LIKE)
    assert (made["gamma_0"], made["gamma_1"]) == (-6.0, 5.0)
    assert not any(np.any(made[name]) for name in MONOTONE[2:])


def test_a_line_that_does_not_rise_gives_none():
    made = from_line({"w": np.float32([0.0]), "b": np.float32([-6.0])}, LIKE)
    with pytest.raises(CheckpointError, match="crossed"):
        check_end_points({"gamma": made}, "a checkpoint")
