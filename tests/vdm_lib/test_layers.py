"""Layers one by one and stacked: two forms of one tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from vdm_lib.layers import stack_layers, unstack_layers
from vdm_lib.sharding import make_mesh
from vdm_lib.train import abstract_state, abstract_trained_state, as_stored, as_trained

CHANGES = {"model.n_layer": 11, "model.with_attention": True}


def numbered(tree):
    """Return a tree of these shapes in which no two numbers are the same."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    return jax.tree.unflatten(
        structure,
        [
            jnp.arange(end - leaf.size, end, dtype=leaf.dtype).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends, strict=True)
        ],
    )


@pytest.fixture(scope="module")
def state():
    # Eleven layers, as block_10 comes before block_2 in the alphabet.
    return numbered(abstract_state(configs.load("debug", CHANGES), make_mesh()))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_layer_is_in_its_place_in_parameters_average_and_moments(state):
    stacked = stack_layers(state)
    adam, adam_before = stacked.opt_state[0], state.opt_state[0]
    for after, before in ((stacked.params, state.params), (adam.nu, adam_before.nu)):
        after, before = after["score_model"], before["score_model"]
        for i in (0, 2, 10):
            np.testing.assert_array_equal(
                after["down.block"]["conv1"]["kernel"][i], before[f"down.block_{i}"]["conv1"]["kernel"]
            )
        np.testing.assert_array_equal(after["up.attn"]["q"]["bias"][11], before["up.attn_11"]["q"]["bias"])
        for stack, middle, leaf in (("block", "block_1", "cond_proj"), ("attn", "attn_1", "q")):
            np.testing.assert_array_equal(
                after[f"down.{stack}"][leaf]["kernel"][11], before[f"mid.{middle}"][leaf]["kernel"]
            )
        assert after["mid.block_2"] is before["mid.block_2"], "what comes after it is in no loop"
        assert not {"mid.block_1", "mid.attn_1", "down.block_0"} & set(after)


def test_attention_in_the_middle_alone_is_in_no_loop():
    before = abstract_state(configs.load("debug"), make_mesh()).params["score_model"]
    after = jax.eval_shape(stack_layers, before)
    assert "mid.attn_1" in after
    assert "down.attn" not in after
    assert "mid.block_1" not in after


def test_there_and_back_is_the_same_tree(state):
    stacked = stack_layers(state)
    assert_same(unstack_layers(stacked), state)
    assert_same(stack_layers(stacked), stacked)
    assert_same(unstack_layers(state), state)


@pytest.mark.parametrize("shard", ["replicated", "zero"])
def test_a_state_is_trained_in_one_form_and_stored_in_the_other(state, shard):
    mesh = make_mesh()
    config = configs.load("debug", CHANGES | {"model.scan_layers": "on", "train.shard": shard})
    trained = as_trained(state, config, mesh)
    assert "down.block" in trained.ema_params["score_model"]
    for leaf, like in zip(jax.tree.leaves(trained), jax.tree.leaves(abstract_trained_state(config, mesh)), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (like.shape, like.dtype, like.sharding)
    assert_same(as_stored(trained, config, mesh), state)
    layers_apart = configs.load("debug", CHANGES)
    assert as_trained(state, layers_apart, mesh) is as_stored(state, layers_apart, mesh) is state
