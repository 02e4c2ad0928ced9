"""The schedule `learnable_monotone` for whatever parameters, and the fixed ways between two end points."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vdm_lib import schedules
from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.model import VDM
from vdm_lib.schedules import make_schedule

CONFIG = ModelConfig(gamma_type="learnable_monotone", gamma_min=-13.3, gamma_max=5.0)
SCHEDULE = make_schedule(CONFIG)
MODEL = VDM(data=DataConfig(name="toy", image_shape=(2, 2, 3)), model=CONFIG)
TIMES = jnp.linspace(0.0, 1.0, 201)
GAMMA = jax.jit(MODEL.gamma)
SLOPE = jax.jit(MODEL.gamma_and_slope)
INTERIOR = ("weights", "centres", "steepnesses")
# Everything that float32 can hold, with the numbers at which something could underflow, overflow or divide 0 by 0.
ANY = st.one_of(
    st.floats(-3.0, 3.0, width=32),
    st.sampled_from([0.0, 1e-38, -1e-38, 1e-45, 1e4, -1e4, 3e38, -3e38]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def params_of(gamma_0, gamma_1, **interior):
    zeros = {name: np.zeros(32, np.float32) for name in INTERIOR}
    ends = {"gamma_0": np.float32(gamma_0), "gamma_1": np.float32(gamma_1)}
    return {"gamma": jax.tree.map(jnp.asarray, ends | zeros | interior)}


def drawn(seed, scale=0.3):
    """Parameters of an interior that bends."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {name: scale * jax.random.normal(key, (32,)) for name, key in zip(INTERIOR, keys, strict=True)}


@settings(max_examples=300, deadline=None)
@given(
    # XLA takes subnormal numbers, below 1.2e-38, for 0.
    gamma_0=st.floats(-30.0, 10.0, width=32, allow_subnormal=False),
    range_of_gamma=st.floats(1.0, 40.0, width=32),
    interior=st.fixed_dictionaries({name: arrays.arrays(np.float32, 32, elements=ANY) for name in INTERIOR}),
)
def test_rises_from_end_to_end_whatever_the_parameters(gamma_0, range_of_gamma, interior):
    gamma_0, gamma_1 = np.float32(gamma_0), np.float32(gamma_0) + np.float32(range_of_gamma)
    params = params_of(gamma_0, gamma_1, **interior)
    gamma = np.asarray(GAMMA(params, TIMES))
    assert (gamma[0], gamma[-1]) == (gamma_0, gamma_1)
    assert np.all(np.diff(gamma) > 0.0)
    slope = np.asarray(SLOPE(params, TIMES)[1])
    # The line alone has a hundredth of the way.
    assert np.all(slope > 0.009 * (gamma_1 - gamma_0))
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_end_points_are_the_parameters_to_the_last_bit(seed, jitted):
    function = GAMMA if jitted else MODEL.gamma
    params = params_of(-13.3 + 0.1 * seed, 5.0 + 0.1 * seed, **drawn(seed, scale=3.0))
    ends = params["gamma"]["gamma_0"], params["gamma"]["gamma_1"]
    for t, end in zip((0.0, 1.0), ends, strict=True):
        assert function(params, jnp.asarray(t)) == end
        # Also in the middle of many, where the compiler takes another path.
        assert function(params, jnp.full(37, t).at[5].set(0.3))[17] == end


def test_starts_near_the_line_between_the_configured_ends():
    params = {"gamma": SCHEDULE.init(jax.random.key(0), TIMES)["params"]}
    gamma = GAMMA(params, TIMES)
    np.testing.assert_allclose(gamma, -13.3 + 18.3 * TIMES, atol=0.006 * 18.3)
    np.testing.assert_allclose(gamma[100], -4.15, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_slope_is_the_difference_quotient(seed):
    params, step = params_of(-13.3, 5.0, **drawn(seed)), 1e-5
    t = jnp.linspace(0.01, 0.99, 50)
    gamma, slope = SLOPE(params, t)
    np.testing.assert_allclose(gamma, GAMMA(params, t), atol=1e-5)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        ahead, behind = (
            np.asarray(MODEL.gamma(exact, jnp.asarray(np.asarray(t, np.float64) + by))) for by in (step, -step)
        )
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=2e-3)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_keeps_the_shape_of_the_times(shape):
    assert MODEL.gamma(params_of(-5.0, 5.0), jnp.full(shape, 0.5)).shape == shape


@pytest.mark.parametrize("kind", ["log_snr_linear", "beta_linear", "cosine"])
@pytest.mark.parametrize("ends", [(-13.3, 5.0), (-6.0, 5.0), (-5.0, -1.0), (1.0, 12.0)])
def test_fixed_ways_rise_between_the_end_points(kind, ends):
    model = replace(MODEL, schedule=kind)
    gamma, slope = model.gamma_and_slope(params_of(*ends), TIMES)
    np.testing.assert_allclose([gamma[0], gamma[-1]], ends, atol=1e-4)
    assert np.all(np.diff(gamma) > 0.0)
    quotient = np.diff(gamma) / np.diff(TIMES)
    assert np.all(quotient > 0.0)
    assert np.all(slope > 0.0)


def test_fixed_ways_are_those_of_the_literature():
    t = jnp.linspace(0.0, 1.0, 1001)
    # Between the end points that they have by themselves nothing is stretched.
    ends = {"beta_linear": (1e-4, 10.0501), "cosine": np.square(np.tan(0.5 * np.pi * np.array([0.008, 1.007]) / 1.008))}
    ends["beta_linear"] = np.expm1(ends["beta_linear"])
    gamma = {kind: getattr(schedules, kind)(*jnp.log(jnp.asarray(ends[kind], jnp.float32)), t) for kind in ends}
    alpha_squared = {kind: jax.nn.sigmoid(-np.asarray(each, np.float64)) for kind, each in gamma.items()}
    angle = np.arccos(np.sqrt(alpha_squared["cosine"]))
    np.testing.assert_allclose(np.diff(angle), 0.5 * np.pi * 0.999e-3 / 1.008, rtol=0.03)
    # The rate of noise of each of 1,000 steps, from 1e-4 to 0.02.
    beta = -np.diff(np.log(np.asarray(alpha_squared["beta_linear"], np.float64)))
    np.testing.assert_allclose(beta[:800], np.linspace(1e-4, 0.02, 1000)[:800], rtol=5e-3, atol=1.1e-5)
    # Stretched, gamma is scaled and moved.
    for kind, own in gamma.items():
        other = getattr(schedules, kind)(jnp.asarray(-13.0), jnp.asarray(5.0), t)
        np.testing.assert_allclose((other + 13.0) / 18.0, (own - own[0]) / (own[-1] - own[0]), atol=1e-5)
