"""Agreement with the original's parameter trees, decay masks, learning rates and three optimiser steps."""

import gzip
import json
import math

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import configs
from tests.golden.variants import HERE, MODELS, TOLERANCE_TRAJECTORY, assert_agrees, loss_and_gradient, variant
from vdm_lib import optim
from vdm_lib.config import OptimConfig
from vdm_lib.model import VDM, count_params


def load_json(name):
    return json.loads(gzip.decompress((HERE / name).read_bytes()))


TREES = load_json("param_trees.json.gz")
TRAJECTORIES = {
    "traj_cfg": OptimConfig(),
    "traj_fast": OptimConfig(learning_rate=1e-2, warmup_steps=2, ema_rate=0.9),
}


@pytest.mark.parametrize("name", sorted(TREES))
def test_parameter_tree(name):
    shapes = jax.eval_shape(VDM.from_config(configs.load(name)).init, jax.random.key(0))
    assert {path: list(leaf.shape) for path, leaf in flatten_dict(shapes, sep="/").items()} == TREES[name]
    assert count_params(shapes) == sum(math.prod(shape) for shape in TREES[name].values())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_decay_mask(name):
    shapes = jax.eval_shape(variant(name).model.init, jax.random.key(0))
    assert flatten_dict(optim.decay_mask(shapes), sep="/") == load_json("decay_masks.json.gz")[name]


@pytest.mark.parametrize(
    ("lr_decay", "name"),
    [(False, "warmup100_lr2e-4_no_decay"), (True, "warmup100_lr2e-4_decay_to_1000")],
)
def test_learning_rates(lr_decay, name):
    values = variant("A").values
    schedule = optim.learning_rate_schedule(OptimConfig(lr_decay=lr_decay), 1000)
    assert_agrees([schedule(int(step)) for step in values["lr/steps"]], values[f"lr/{name}"])


def by_path(tree):
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}


def stored_below(v, prefix):
    return {name.removeprefix(prefix): value for name, value in v.values.items() if name.startswith(prefix)}


def has_gradient(path):
    # A bias of the keys has none but rounding, which Adam enlarges to whole steps.
    return not path.endswith("/k/bias")


def assert_moved_as_stored(v, tree, prefix):
    """The distance of each leaf from its start must be that of the original."""
    leaves = by_path({"params": tree})
    distances = [np.linalg.norm(np.asarray(leaves[path], np.float64) - start) for path, start in v.leaves.items()]
    kept = [has_gradient(path) for path in v.leaves]
    assert_agrees(np.asarray(distances)[kept], v.values[f"{prefix}_delta_leaf_norms"][kept], what=prefix)


def assert_leaves_agree(v, tree, prefix):
    leaves = by_path(tree)
    for path, expected in stored_below(v, f"{prefix}/").items():
        np.testing.assert_allclose(
            leaves[path], expected, rtol=0.0, atol=TOLERANCE_TRAJECTORY, err_msg=f"{prefix}/{path}"
        )


@pytest.mark.parametrize("name", sorted(TRAJECTORIES))
def test_three_steps(name):
    v, config = variant("D"), TRAJECTORIES[name]
    optimizer = optim.make_optimizer(config, 1000)
    update = jax.jit(optimizer.update)
    params = ema = v.params
    opt_state = optimizer.init(params)
    for step in range(3):
        prefix = f"{name}/step{step}"
        batch = v.batch(v.values[f"{prefix}/u0"], shift=step)
        (bpd, _), gradient = loss_and_gradient(v.model, params, *batch)
        updates, opt_state = update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = optim.update_ema(ema, params, config.ema_rate)

        assert_agrees(bpd, v.values[f"{prefix}/train_bpd"])
        assert_agrees(optim.learning_rate_schedule(config, 1000)(step), v.values[f"{prefix}/lr"])
        assert opt_state[0].count == v.values[f"{prefix}/state_step_after"]
        assert_leaves_agree(v, params, f"{prefix}/params")
        assert_leaves_agree(v, ema, f"{prefix}/ema")
        assert_moved_as_stored(v, params, f"{prefix}/params")
        # At the rate 0.9999 the average moves by less than the last bit of most parameters: only rounding is stored.
        if name == "traj_fast":
            assert_moved_as_stored(v, ema, f"{prefix}/ema")
    for moment in ("mu", "nu"):
        leaves = by_path(getattr(opt_state[0], moment))
        for path, expected in stored_below(v, f"{name}/final_adam_{moment}/").items():
            assert_agrees(leaves[path], expected, what=f"{moment} of {path}")
