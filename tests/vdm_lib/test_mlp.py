import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from vdm_lib.errors import ConfigError
from vdm_lib.images import picture, plane
from vdm_lib.model import VDM

SWIRL = configs.load("swirl", {"model.dropout": 0.5, "model.num_classes": 3})
MODEL = VDM.from_config(SWIRL)
Z = jax.random.normal(jax.random.key(0), (2, 1, 1, 2))
GAMMA, NO = jnp.asarray([-6.0, 1.0]), jnp.zeros(2, jnp.int32)
EPS_HAT = jax.jit(MODEL.eps_hat)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(MODEL.init)(jax.random.key(1))


@pytest.fixture(scope="module")
def params(fresh):
    """Parameters with noise on every leaf, as some layers start from zero."""
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def changed(actual, baseline):
    """Whether each image changed."""
    return (np.abs(np.asarray(actual - baseline)).max(axis=(1, 2, 3)) > 1e-4).tolist()


def test_a_fresh_network_returns_its_input(fresh):
    np.testing.assert_array_equal(EPS_HAT(fresh, Z, GAMMA, NO), Z)


def test_each_estimate_depends_on_what_its_own_image_is_told(params):
    labels = jnp.asarray([0, 1], jnp.int32)
    baseline = EPS_HAT(params, Z, GAMMA, NO, None, labels)
    assert changed(EPS_HAT(params, Z.at[0, 0, 0, 1].add(0.1), GAMMA, NO, None, labels), baseline) == [True, False]
    assert changed(EPS_HAT(params, Z, GAMMA.at[0].add(0.5), NO, None, labels), baseline) == [True, False]
    assert changed(EPS_HAT(params, Z, GAMMA, NO.at[1].set(1), None, labels), baseline) == [False, True]
    assert changed(EPS_HAT(params, Z, GAMMA, NO, None, labels.at[1].set(2)), baseline) == [False, True]


def test_dropout_needs_a_key(params):
    baseline = EPS_HAT(params, Z, GAMMA, NO)
    with_key = EPS_HAT(params, Z, GAMMA, NO, jax.random.key(0))
    assert changed(with_key, baseline) == [True, True]
    np.testing.assert_array_equal(EPS_HAT(params, Z, GAMMA, NO, jax.random.key(0)), with_key)


def test_every_leaf_matters(params):
    labels = jnp.asarray([0, 3], jnp.int32)

    def loss(params):
        return jnp.sum(jnp.sin(3.0 * MODEL.eps_hat(params, Z, GAMMA, NO + 1, None, labels)))

    flat = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(params)["score_model"])[0]
    assert [jax.tree_util.keystr(path) for path, leaf in flat if jnp.abs(leaf).max() < 1e-6] == []


@pytest.mark.parametrize(
    "value",
    ["model.with_attention=true", "model.remat=true", 'model.remat_keeps="costly"', 'model.scan_layers="on"'],
)
def test_what_only_the_unet_has_is_refused(value):
    with pytest.raises(ConfigError, match="is of the unet"):
        configs.load("swirl", configs.parse_overrides([value]))


def test_points_are_drawn_where_they_lie():
    drawn = plane(np.asarray([[0, 0], [15, 8]], np.uint8), 16)
    dark = np.argwhere(drawn[..., 0] < 255)
    # x to the right, y upwards; a dot has three pixels a side, but for what lies outside.
    assert {tuple(place) for place in dark} == {
        (14, 0), (14, 1), (15, 0), (15, 1), (6, 14), (6, 15), (7, 14), (7, 15), (8, 14), (8, 15),
    }  # fmt: skip
    images = np.zeros((5, 1, 1, 2), np.uint8)
    assert picture(images, 16).shape == (16, 16, 3)
    assert picture(np.zeros((5, 1, 1, 1), np.uint8), 16).shape == (5, 7, 3)
