import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from vdm_lib.sharding import make_mesh, split_longest_axis
from vdm_lib.train import init_state, make_train_step, train_step

MESH = make_mesh()


def test_an_update_that_is_not_finite_is_left_out_if_asked():
    config = configs.load("debug", {"train.on_nan": "skip", "optim.warmup_steps": 0})
    step = make_train_step(config, MESH)
    images = np.zeros((config.train.batch_size, *config.data.image_shape), np.uint8)
    state = init_state(config, MESH)
    kernel = state.params["score_model"]["conv_in"]["kernel"]
    state.params["score_model"]["conv_in"]["kernel"] = kernel.at[0].set(jnp.nan)
    before = jax.device_get(state)
    after, metrics = step(state, images)
    assert np.isnan(metrics["bpd_diff"])
    assert np.isfinite(metrics["bpd_recon"])
    assert int(after.step) == 1
    for name in ("params", "ema_params", "opt_state"):
        for new, old in zip(jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(before, name)), strict=True):
            np.testing.assert_array_equal(new, old)
    # A step that is usable moves them, by the same program.
    whole, metrics = step(init_state(config, MESH), images)
    assert np.isfinite(metrics["bpd"])
    assert not np.array_equal(whole.opt_state[0].nu["gamma"]["w"], np.zeros(1))


@pytest.mark.slow
def test_several_programs_do_what_one_does():
    config = configs.load("debug", {"optim.warmup_steps": 0, "data.augmentation": "flip_rotate"})
    images = np.random.default_rng(0).integers(0, 17, (config.train.batch_size, *config.data.image_shape), np.uint8)
    apart, together = make_train_step(config, MESH), jax.jit(train_step(config, MESH))
    # On one CPU the first is no single program, so that this compares two things.
    assert not hasattr(apart, "lower")
    states = [init_state(config, MESH)] * 2
    for _ in range(2):
        (first, found), (second, expected) = together(states[0], images), apart(states[1], images)
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)
        states = [first, second]
    for leaf, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


def test_the_longest_axis_that_divides_is_split():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",))
    tree = {"kernel": jnp.zeros((3, 3, 64, 128)), "scalar": jnp.zeros(())}
    specs = jax.tree.map(lambda sharding: sharding.spec, split_longest_axis(tree, mesh))
    assert specs["kernel"] == jax.sharding.PartitionSpec(None, None, None, "data")
    assert specs["scalar"] == jax.sharding.PartitionSpec()
