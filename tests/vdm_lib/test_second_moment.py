"""The gradient that trains the schedule `learnable_monotone`, against what it is said to be."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from tests.known_answers import truths
from tests.known_answers.models import GaussianVDM, gaussian, model_config
from vdm_lib.config import ModelConfig
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.model import INTERIOR_SHARE, VDM
from vdm_lib.sharding import make_mesh
from vdm_lib.train import abstract_state, train_step

KNOWN = gaussian(64)
CONFIG = ModelConfig(gamma_type="learnable_monotone", gamma_min=-5.0, gamma_max=6.0)
PLAIN = GaussianVDM(data=KNOWN.model.data, model=CONFIG)
TRAINED = replace(PLAIN, interior_by_variance=True)
INTERIOR = ("weights", "centres", "steepnesses")
IMAGES, CONDITIONING = jnp.asarray(KNOWN.images), jnp.zeros(64, jnp.int32)


def some_params():
    names = dict(zip(INTERIOR, jax.random.split(jax.random.key(3), 3), strict=True))
    interior = {name: 0.1 * jax.random.normal(key, (32,)) for name, key in names.items()}
    return {**KNOWN.params, "gamma": {"gamma_0": jnp.float32(-5.0), "gamma_1": jnp.float32(6.0), **interior}}


PARAMS = some_params()
NOISE = PLAIN.draw_noise(jax.random.key(5), 64)


def bound(model, params, images=IMAGES, noise=NOISE):
    total = model.losses(params, images, CONDITIONING[: len(images)], noise).total
    return jnp.mean(nats_to_bpd(total, model.data.num_dims))


def second_moment(model, params):
    diff = model.losses(params, IMAGES, CONDITIONING, NOISE).diff
    return INTERIOR_SHARE * jnp.mean(jnp.square(nats_to_bpd(diff, model.data.num_dims)))


@cache
def gradient(function, model):
    return jax.jit(jax.grad(lambda params: function(model, params)))(PARAMS)


def test_interior_follows_the_second_moment_and_everything_else_the_bound():
    of_bound, of_moment, found = gradient(bound, PLAIN), gradient(second_moment, PLAIN), gradient(bound, TRAINED)
    for name in INTERIOR:
        np.testing.assert_allclose(found["gamma"][name], of_moment["gamma"][name], rtol=1e-4, atol=1e-7)
        # It is another gradient than the bound's, in its direction as well.
        cosine = np.vdot(found["gamma"][name], of_bound["gamma"][name])
        assert cosine < 0.95 * np.linalg.norm(found["gamma"][name]) * np.linalg.norm(of_bound["gamma"][name])
    for name in ("gamma_0", "gamma_1"):
        np.testing.assert_allclose(found["gamma"][name], of_bound["gamma"][name], rtol=1e-5)
        assert abs(of_moment["gamma"][name] / INTERIOR_SHARE - of_bound["gamma"][name]) > 0.1
    for name in ("mean", "variance"):
        np.testing.assert_allclose(found[name], of_bound[name], rtol=1e-4, atol=1e-6)


def test_on_average_the_end_points_follow_the_exact_bound():
    """Each of the times that are spread over a batch is uniform by itself: the mean gradient is that of the mean."""
    assert CONFIG.antithetic_time_sampling

    def one(ends, key):
        params = {**PARAMS, "gamma": {**PARAMS["gamma"], "gamma_0": ends[0], "gamma_1": ends[1]}}
        return bound(TRAINED, params, noise=TRAINED.draw_noise(key, 64))

    ends, step = np.asarray([-3.0, 2.0]), 0.02
    draws = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(jnp.asarray(ends), jax.random.split(jax.random.key(0), 400))
    errors = np.std(draws, axis=0, ddof=1) / np.sqrt(len(draws))
    moves = step * np.eye(2)
    exact = np.asarray([exact_bound(*(ends + move)) - exact_bound(*(ends - move)) for move in moves]) / (2 * step)
    assert np.all(np.abs(np.mean(draws, axis=0) - exact) < 4.0 * errors)
    assert np.all(errors < 0.1 * np.abs(exact))


def exact_bound(gamma_0, gamma_1):
    model = replace(KNOWN.model, model=model_config(gamma_0=gamma_0, gamma_1=gamma_1))
    return truths.bound(replace(KNOWN, model=model))


def test_the_value_is_the_same():
    np.testing.assert_allclose(bound(TRAINED, PARAMS), bound(PLAIN, PARAMS), rtol=1e-6)


@pytest.mark.slow  # 2,000 gradients
def test_the_interior_is_out_of_the_reach_of_the_bound_on_average():
    """In continuous time dE/dphi of the bound is 0; over many draws its mean is, within errors."""

    @jax.jit
    @jax.vmap
    def one(key):
        noise = PLAIN.draw_noise(key, 64)
        return jax.grad(lambda params: bound(PLAIN, params, noise=noise))(PARAMS)["gamma"]["weights"]

    draws = np.asarray(one(jax.random.split(jax.random.key(0), 2000)))
    errors = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    # 32 of them: 4.2 errors are passed by chance once in a thousand runs.
    assert np.all(np.abs(draws.mean(axis=0)) < 4.2 * errors)


def test_parts_of_a_batch_in_a_loop_add_up_to_the_whole():
    split = jax.tree.map(lambda leaf: leaf.reshape(4, 16, *leaf.shape[1:]), (IMAGES, NOISE))

    @jax.jit
    def summed(parts):
        def step(total, part):
            images, noise = part
            one = jax.grad(lambda params: bound(TRAINED, params, images, noise))(PARAMS)
            return jax.tree.map(jnp.add, total, one), None

        return jax.tree.map(lambda leaf: leaf / 4, jax.lax.scan(step, jax.tree.map(jnp.zeros_like, PARAMS), parts)[0])

    for found, expected in zip(jax.tree.leaves(summed(split)), jax.tree.leaves(gradient(bound, TRAINED)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("gamma_type", "timesteps", "by_variance"),
    [("learnable_monotone", 0, True), ("learnable_monotone", 10, False), ("learnable_nnet", 0, False)],
)
def test_in_discrete_time_and_for_other_schedules_everything_follows_the_bound(gamma_type, timesteps, by_variance):
    config = configs.load("debug", {"model.gamma_type": gamma_type, "model.timesteps": timesteps})
    assert VDM.for_training(config).interior_by_variance == by_variance


def flops(overrides, monkeypatch, *, by_variance):
    config, mesh = configs.load("debug", overrides), make_mesh()
    with monkeypatch.context() as patched:
        if not by_variance:
            patched.setattr(VDM, "for_training", VDM.from_config)
        step = jax.jit(train_step(config, mesh))
        images = jax.ShapeDtypeStruct((config.train.batch_size, *config.data.image_shape), jnp.uint8)
        return step.lower(abstract_state(config, mesh), images).compile().cost_analysis()["flops"]


@pytest.mark.slow  # compiles three training steps
def test_the_work_of_a_step_grows_by_less_than_one_percent(monkeypatch):
    monotone = {"model.gamma_type": "learnable_monotone"}
    plain = flops(monotone, monkeypatch, by_variance=False)
    assert flops(monotone, monkeypatch, by_variance=True) < 1.01 * plain
    line = flops({}, monkeypatch, by_variance=False)
    assert 1.0 < plain / line < 1.01
