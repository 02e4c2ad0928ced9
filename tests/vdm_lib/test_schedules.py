import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.model import VDM
from vdm_lib.schedules import make_schedule

KINDS = ["fixed", "learnable_scalar", "learnable_nnet"]
TIMES = jnp.linspace(0.0, 1.0, 101)


def schedule_and_params(kind, seed=0):
    schedule = make_schedule(ModelConfig(gamma_type=kind, gamma_min=-10.0, gamma_max=4.0))
    return schedule, schedule.init(jax.random.key(seed), TIMES)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_between_the_configured_ends(kind):
    schedule, params = schedule_and_params(kind)
    gamma = schedule.apply(params, jnp.asarray([0.0, 0.5, 1.0]))
    # The network of learnable_nnet adds a little that is not renormalised.
    np.testing.assert_allclose(gamma, [-10.0, -3.0, 4.0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.3, 3.0))
def test_rises_for_any_parameters_of_either_sign(kind, seed, scale):
    schedule, params = schedule_and_params(kind)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves) + 1)
    leaves = [
        scale * jnp.where(jnp.abs(draw := jax.random.normal(key, leaf.shape)) < 0.05, -0.05, draw)
        for key, leaf in zip(keys, leaves, strict=False)
    ]
    gamma = schedule.apply(jax.tree.unflatten(tree, leaves), TIMES)
    assert np.all(np.diff(gamma) > 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_keeps_the_shape_of_the_times(kind, shape):
    schedule, params = schedule_and_params(kind)
    assert schedule.apply(params, jnp.full(shape, 0.5)).shape == shape


def test_fixed_has_no_parameters():
    assert schedule_and_params("fixed")[1] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_slope_is_the_difference_quotient(kind):
    data = DataConfig(name="toy", image_shape=(2, 2, 3))
    model = VDM(data=data, model=ModelConfig(gamma_type=kind))
    schedule = make_schedule(model.model)
    variables = schedule.init(jax.random.key(1), TIMES)
    # Larger hidden layers, so that the curve bends; the single numbers stay.
    bent = jax.tree.map(lambda leaf: leaf * (200.0 if leaf.size > 1 else 1.0), variables.get("params", {}))
    params = {"gamma": bent} if bent else {}
    t = jnp.asarray([0.1, 0.4, 0.8])
    step = 0.01
    gamma, slope = model.gamma_and_slope(params, t)
    np.testing.assert_array_equal(gamma, model.gamma(params, t))
    quotient = (model.gamma(params, t + step) - model.gamma(params, t - step)) / (2 * step)
    np.testing.assert_allclose(slope, quotient, rtol=1e-3)
