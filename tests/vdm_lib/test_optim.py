import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import configs
from vdm_lib import optim
from vdm_lib.config import OptimConfig
from vdm_lib.model import VDM

PARAMS = {"dense": {"kernel": jnp.asarray([[0.3, -1.7], [2.9, 0.01]]), "bias": jnp.asarray([0.5, -0.25])}}
GRADIENT = jax.tree.map(lambda leaf: 0.1 * leaf - 0.02, PARAMS)


def leaves(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_first_update_moves_the_moments_only():
    optimizer = optim.make_optimizer(OptimConfig(), 1000)
    updates, state = optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(leaves(optax.apply_updates(PARAMS, updates)), leaves(PARAMS))
    adam = state[0]
    assert int(adam.count) == 1
    np.testing.assert_allclose(leaves(adam.mu), 0.1 * leaves(GRADIENT), rtol=1e-5)
    np.testing.assert_allclose(leaves(adam.nu), 0.01 * leaves(GRADIENT) ** 2, rtol=1e-5)


def test_second_update_is_adamw():
    config = OptimConfig(learning_rate=1e-2, warmup_steps=2, weight_decay=0.1)
    optimizer = optim.make_optimizer(config, 1000)
    _, state = optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)
    updates, _ = optimizer.update(GRADIENT, state, PARAMS)
    # With one gradient twice the corrected moments are g and g^2; the rate is half-way up the warm-up.
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        g, p = (np.asarray(tree["dense"][name]) for tree in (GRADIENT, PARAMS))
        expected = -5e-3 * (g / (np.abs(g) + 1e-8) + decay * p)
        np.testing.assert_allclose(updates["dense"][name], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("lr_decay", "expected"),
    [(False, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]), (True, [0.0, 0.5, 1.0, 0.5, 0.0, 0.0])],
)
def test_learning_rate(lr_decay, expected):
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, lr_decay=lr_decay)
    schedule = optim.learning_rate_schedule(config, 110)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10, 60, 110, 200)], expected, atol=1e-6)


def test_no_warmup_starts_at_the_full_rate():
    schedule = optim.learning_rate_schedule(OptimConfig(learning_rate=0.5, warmup_steps=0), 10)
    np.testing.assert_allclose([schedule(0), schedule(1)], 0.5)


def test_decay_mask_spares_biases_only():
    params = {
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "gamma": {"w": jnp.ones(1), "b": jnp.ones(1)},
    }
    expected = {"norm": {"scale": True, "bias": False}, "gamma": {"w": True, "b": True}}
    assert optim.decay_mask(params) == expected


def test_the_schedule_between_its_end_points_is_not_decayed():
    config = configs.load("debug", {"model.gamma_type": "learnable_monotone"})
    mask = optim.decay_mask(jax.eval_shape(VDM.from_config(config).init, jax.random.key(0)))
    assert set(mask["gamma"]) == {"gamma_0", "gamma_1", "weights", "centres", "steepnesses"}
    assert not any(mask["gamma"].values())
    assert mask["score_model"]["conv_in"]["kernel"]


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("told", [True, False])
def test_clipping_bounds_the_norm_of_what_adam_sees(factor, told):
    clip_norm = 0.5
    optimizer = optim.make_optimizer(OptimConfig(gradient_clip_norm=clip_norm), 1000)
    gradient = jax.tree.map(lambda leaf: factor * leaf, GRADIENT)
    norm = np.linalg.norm(leaves(gradient))
    _, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS, **({"gradient_norm": norm} if told else {}))
    seen = np.linalg.norm(leaves(state[1][0].mu)) / 0.1
    np.testing.assert_allclose(seen, min(norm, clip_norm), rtol=1e-4)


def test_moving_average():
    ema = jax.tree.map(lambda leaf: leaf + 1.0, PARAMS)
    expected = leaves(ema) + 0.1 * (leaves(PARAMS) - leaves(ema))
    np.testing.assert_allclose(leaves(optim.update_ema(ema, PARAMS, 0.9)), expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.9, 0.999, 0.9999])
def test_moving_average_stays_where_the_parameters_stay(rate):
    # In float32 rate + (1 - rate) need not be 1: rate * ema + (1 - rate) * params would drift off params.
    update = jax.jit(lambda ema: optim.update_ema(ema, PARAMS, rate))
    ema = PARAMS
    for _ in range(50):
        ema = update(ema)
    np.testing.assert_array_equal(leaves(ema), leaves(PARAMS))


def test_sum_of_squares():
    tree = {"a": PARAMS, "b": GRADIENT}
    np.testing.assert_allclose(optim.sum_of_squares(tree), np.sum(np.square(leaves(tree))), rtol=1e-6)
