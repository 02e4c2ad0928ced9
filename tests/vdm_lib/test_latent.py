import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm_lib.config import ModelConfig
from vdm_lib.latent import LatentVDM, binarise
from vdm_lib.likelihood import bernoulli_log_prob
from vdm_lib.samplers.sampler import Sampler

MODEL = LatentVDM(
    image_shape=(2, 2, 1),
    model=ModelConfig(
        network="mlp", n_embd=32, n_layer=1, dropout=0.0, with_fourier_features=False,
        gamma_type="fixed", gamma_min=-1.0, gamma_max=5.0, num_classes=2, label_dropout=0.2,
    ),
    code_dims=3, width=32, num_layers=1,
)  # fmt: skip
ALL = jnp.asarray(list(itertools.product((0, 1), repeat=4)), jnp.uint8).reshape(16, 2, 2, 1)


def randomised(params, scale):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    noisy = [leaf + scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="module")
def params():
    return randomised(jax.jit(MODEL.init)(jax.random.key(0)), 0.2)


@jax.jit
def mean_bound(params, labels):
    """Return the bound of all images, the mean over 4,000 draws, in nats."""
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = jax.lax.map(lambda key: MODEL.losses(params, ALL, MODEL.draw_noise(key, 16), labels).total, keys)
    return draws.mean(axis=0), draws.std(axis=0) / jnp.sqrt(len(keys))


def trained(params, num_steps=300):
    """Parameters for images of which only two occur, one of each class."""
    optimizer = optax.adam(5e-3)
    images, labels = jnp.tile(ALL[jnp.asarray([3, 12])], (16, 1, 1, 1)), jnp.tile(jnp.arange(2, dtype=jnp.int32), 16)

    @jax.jit
    def step(params, state, key):
        noise = MODEL.draw_noise(key, 32)
        gradient = jax.grad(lambda p: MODEL.losses(p, images, noise, labels).total.mean())(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(2), num_steps):
        params, state = step(params, state, key)
    return params


@pytest.fixture(scope="module")
def two(params):
    return trained(params)


@pytest.mark.slow  # thousands of draws of the bound
@pytest.mark.parametrize("which", ["params", "two"])
@pytest.mark.parametrize("label", [0, None])
def test_the_probabilities_that_the_bound_stands_for_are_no_more_than_one(which, label, request):
    """exp(-bound) is at most the probability of an image, and there are sixteen images in all."""
    labels = None if label is None else jnp.full(16, label, jnp.int32)
    nats, stderr = mean_bound(request.getfixturevalue(which), labels)
    total, error = jnp.exp(-nats).sum(), jnp.sqrt(jnp.square(jnp.exp(-nats) * stderr).sum())
    assert total < 1.0 + 4.0 * error


def test_training_finds_the_image_of_each_class(two):
    nats, _ = mean_bound(two, jnp.full(16, 1, jnp.int32))
    assert int(jnp.argmin(nats)) == 12
    assert float(nats[12]) < 1.0  # of 2.77 for images that are all alike
    labels = jnp.asarray([0, 1, 1, 0, 1], jnp.int32)
    probabilities = MODEL.sample(two, jax.random.key(3), 5, 20, Sampler("dpm"), labels)
    expected = ALL[jnp.where(labels == 1, 12, 3)]
    assert np.mean((np.asarray(probabilities) > 0.5) == np.asarray(expected)) > 0.85


def test_an_image_does_not_depend_on_the_others(params):
    draw = jax.jit(MODEL.sample, static_argnums=(2, 3, 4))
    labels = jnp.asarray([0, 1, 0, 1], jnp.int32)
    many = draw(params, jax.random.key(3), 4, 5, Sampler(guidance=1.0), labels)
    few = draw(params, jax.random.key(3), 2, 5, Sampler(guidance=1.0), labels[:2])
    np.testing.assert_allclose(few, many[:2], atol=1e-6)
    assert many.shape == (4, 2, 2, 1)


def test_every_leaf_is_trained(params):
    noise, labels = MODEL.draw_noise(jax.random.key(0), 16), jnp.arange(16, dtype=jnp.int32) % 3
    gradient = jax.jit(jax.grad(lambda p: MODEL.losses(p, ALL, noise, labels).total.mean()))(params)
    flat = jax.tree_util.tree_flatten_with_path(gradient)[0]
    assert [jax.tree_util.keystr(path) for path, leaf in flat if jnp.abs(leaf).max() < 1e-9] == []


def test_the_bernoulli_likelihood_in_closed_form():
    bits = jnp.asarray([1, 0, 1], jnp.uint8).reshape(1, 3, 1, 1)
    logits = jnp.asarray([0.3, -2.0, 80.0]).reshape(1, 3, 1, 1)
    p = 1.0 / (1.0 + np.exp(-np.asarray([0.3, -2.0, 80.0])))
    np.testing.assert_allclose(bernoulli_log_prob(bits, logits), [np.log(p[0] * (1 - p[1]) * p[2])], rtol=1e-5)
    assert np.isfinite(bernoulli_log_prob(1 - bits, logits)).all()


def test_pixels_are_one_with_the_probability_of_their_level():
    images = jnp.tile(jnp.asarray([0, 4, 16], jnp.uint8).reshape(1, 1, 3, 1), (4000, 1, 1, 1))
    share = np.asarray(binarise(jax.random.key(0), images, 17)).mean(axis=0).reshape(3)
    assert share[[0, 2]].tolist() == [0.0, 1.0]
    # Four standard errors.
    assert abs(share[1] - 0.25) < 4.0 * np.sqrt(0.25 * 0.75 / 4000)
