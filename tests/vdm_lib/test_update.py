"""The update layer by layer is the update of the whole state."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from vdm_lib.layers import join_layers, split_layers
from vdm_lib.sharding import make_mesh
from vdm_lib.train import abstract_state, abstract_trained_state
from vdm_lib.update import compile_update_by_layer, update_step

MESH = make_mesh()


def filled(tree, seed):
    """Return a tree of these shapes with other numbers between 0 and 1 in every leaf, 0 in counters."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.uniform(size=leaf.shape), leaf.dtype), tree)


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.with_attention": True, "optim.gradient_clip_norm": 0.1},
        {"train.on_nan": "skip"},
        pytest.param({"model.scan_layers": "on"}, marks=pytest.mark.slow),
        pytest.param({"model.network": "mlp"}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: ",".join(changes),
)
def test_the_update_layer_by_layer_is_the_whole_update(changes):
    small = {"model.n_layer": 1, "optim.warmup_steps": 0, "optim.weight_decay": 0.1}
    config = configs.load("debug", small | changes)
    shapes = abstract_trained_state(config, MESH)
    by_layer, whole = compile_update_by_layer(config, MESH, shapes).step, jax.jit(update_step(config))
    states = [filled(shapes, seed=3) for _ in range(2)]
    for step in range(3):
        gradient = filled(states[0].params, seed=step)
        # The second update is one to be left out, where that is asked for.
        bpd = {"bpd": jnp.asarray(np.nan if step == 1 else 4.0, jnp.float32)}
        (expected, metrics), (found, others) = whole(states[0], gradient, bpd), by_layer(states[1], gradient, bpd)
        assert_close(found, expected)
        assert_close(others, metrics)
        assert int(found.step) == step + 1
        states = [expected, found]


@pytest.mark.slow
def test_the_device_need_not_be_the_default_one():
    code = """
import jax, numpy as np, configs
from jax.sharding import Mesh
from vdm_lib.train import init_state, make_train_step
mesh = Mesh(np.asarray(jax.devices()[1:]), ("data",))
config = configs.load("debug", {"model.n_layer": 1})
state, step = init_state(config, mesh), make_train_step(config, mesh)
for _ in range(2):
    state, metrics = step(state, np.zeros((config.train.batch_size, *config.data.image_shape), np.uint8))
assert all(leaf.devices() == {jax.devices()[1]} for leaf in jax.tree.leaves((state, metrics)))
"""
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | devices, check=True, timeout=200)


def test_layers_of_one_shape_share_their_programs():
    of_depth = [configs.load("debug", {"model.n_layer": n_layer}) for n_layer in (1, 4)]
    few, many = (compile_update_by_layer(config, MESH, abstract_state(config, MESH)) for config in of_depth)
    assert len(few.programs) == len(many.programs)


def test_layers_apart_and_together_are_the_same_tree():
    config = configs.load("debug", {"model.with_attention": True})
    params = filled(abstract_state(config, MESH).params, seed=0)
    split = split_layers(params)
    assert {"", "down.block_0", "down.attn_0", "mid.block_1", "mid.block_2", "mid.attn_1"} <= set(split)
    assert "conv_in" in split[""]["score_model"]
    assert "gamma" in split[""]
    assert_close(join_layers(split), params)
