import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_lib import embedding
from vdm_lib.config import DataConfig, ModelConfig
from vdm_lib.layers import stack_layers
from vdm_lib.model import VDM, count_params
from vdm_lib.unet import PixelDense

# With n_embd = 32 every group of a norm has one channel, and the network could not see gamma.
N_EMBD = 64
SHAPE = (2, 4, 4, 3)


def make_model(**changes):
    config = ModelConfig(**{"n_embd": N_EMBD, "n_layer": 1, "dropout": 0.5, **changes})
    return VDM(data=DataConfig(name="toy", image_shape=SHAPE[1:]), model=config)


def randomised(params):
    """Parameters with noise on every leaf, as many layers start from zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, noisy)


MODEL = make_model()
Z = jax.random.normal(jax.random.key(0), SHAPE)
GAMMA = jnp.asarray([-6.0, 1.0])
NO = jnp.zeros(2, jnp.int32)
EPS_HAT = jax.jit(MODEL.eps_hat)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(MODEL.init)(jax.random.key(1))


@pytest.fixture(scope="module")
def params(fresh):
    return randomised(fresh)


@pytest.fixture(scope="module")
def baseline(params):
    return EPS_HAT(params, Z, GAMMA, NO)


def change(actual, baseline):
    """Largest change of each image."""
    return np.abs(np.asarray(actual - baseline)).max(axis=(1, 2, 3))


def test_fresh_network_returns_its_input(fresh):
    np.testing.assert_array_equal(EPS_HAT(fresh, Z, GAMMA, NO), Z)


def test_a_loop_over_layers_is_the_same_function_of_both_forms_of_the_parameters(params, baseline):
    eps_hat = jax.jit(make_model(scan_layers="on").eps_hat)
    one_by_one, stacked = (eps_hat(form, Z, GAMMA, NO) for form in (params, stack_layers(params)))
    np.testing.assert_array_equal(one_by_one, stacked)
    np.testing.assert_allclose(one_by_one, baseline, rtol=1e-5, atol=1e-6)


def test_output_depends_on_gamma(params, baseline):
    moved = change(EPS_HAT(params, Z, GAMMA + jnp.asarray([0.5, 0.0]), NO), baseline)
    assert moved[0] > 1e-3
    assert moved[1] == 0.0


def test_output_depends_on_the_conditioning(params, baseline):
    moved = change(EPS_HAT(params, Z, GAMMA, jnp.asarray([0, 1], jnp.int32)), baseline)
    assert moved[0] == 0.0
    assert moved[1] > 1e-3


def test_conditioning_may_be_of_any_number_type(params, baseline):
    np.testing.assert_array_equal(EPS_HAT(params, Z, GAMMA, NO.astype(jnp.float32)), baseline)
    np.testing.assert_array_equal(EPS_HAT(params, Z, GAMMA, NO.astype(jnp.uint8)), baseline)


def test_every_pixel_sees_every_pixel(params, baseline):
    # The attention in the middle joins what the convolutions of this small network do not.
    moved = np.abs(np.asarray(EPS_HAT(params, Z.at[0, 0, 0, 0].add(1.0), GAMMA, NO) - baseline))
    assert np.all(moved[0].max(axis=-1) > 0.0)
    assert np.all(moved[1] == 0.0)


def test_dropout_needs_a_key(params, baseline):
    with_key = EPS_HAT(params, Z, GAMMA, NO, jax.random.key(0))
    np.testing.assert_array_equal(EPS_HAT(params, Z, GAMMA, NO), baseline)
    np.testing.assert_array_equal(EPS_HAT(params, Z, GAMMA, NO, jax.random.key(0)), with_key)
    assert np.all(change(with_key, baseline) > 1e-3)
    assert np.all(change(EPS_HAT(params, Z, GAMMA, NO, jax.random.key(1)), with_key) > 1e-3)


def test_every_leaf_but_the_key_biases_matters(params):
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(3.0 * MODEL.eps_hat(p, Z, GAMMA, NO + 1)))))(params)
    flat = jax.tree_util.tree_flatten_with_path(gradient["score_model"])[0]
    # A bias of the attention's keys shifts all scores of a softmax alike.
    dead = [jax.tree_util.keystr(path) for path, leaf in flat if "'k'" not in str(path) and jnp.abs(leaf).max() < 1e-6]
    assert dead == []


def test_attention_and_fourier_features_are_options():
    def shapes(**changes):
        return jax.eval_shape(make_model(**changes).init, jax.random.key(0))

    plain, attention = shapes(), shapes(with_attention=True)
    assert "up.attn_1" in attention["score_model"]
    assert "up.attn_1" not in plain["score_model"]
    assert "mid.attn_1" in plain["score_model"]
    assert count_params(attention) > count_params(plain)
    assert plain["score_model"]["conv_in"]["kernel"].shape == (3, 3, 15, N_EMBD)
    without = shapes(with_fourier_features=False)
    assert without["score_model"]["conv_in"]["kernel"].shape == (3, 3, 3, N_EMBD)


def test_time_embedding_in_closed_form():
    t = jnp.asarray([0.0, 0.013, 0.02])
    found = embedding.time_embedding(t, 8)
    frequencies = 10_000.0 ** (-np.arange(4) / 3)
    angles = 1000.0 * np.asarray(t, np.float64)[:, None] * frequencies
    np.testing.assert_allclose(found, np.hstack([np.sin(angles), np.cos(angles)]), atol=1e-5)


def test_fourier_features_of_clean_pixels_are_constant():
    clean = (2.0 * (jnp.arange(256.0) + 0.5) / 256.0 - 1.0).reshape(1, 16, 16, 1)
    features = embedding.fourier_features(clean, (7,))
    np.testing.assert_allclose(features[..., 0], 0.0, atol=1e-3)
    np.testing.assert_allclose(features[..., 1], -1.0, atol=1e-3)


def test_a_dense_layer_of_pixels_is_that_of_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 6)), jnp.float32)
    ours, theirs = PixelDense(4), nn.Dense(4)
    params = ours.init(jax.random.key(1), x)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b, strict=True), params, theirs.init(jax.random.key(1), x)
    )
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-6)
