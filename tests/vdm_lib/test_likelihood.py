import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from vdm_lib import likelihood

NUM_LEVELS = [2, 17, 256]


def all_levels(num_levels):
    return jnp.arange(num_levels, dtype=jnp.int32).reshape(1, 1, -1, 1)


@pytest.mark.parametrize("num_levels", NUM_LEVELS)
def test_encode_gives_the_middles_of_equal_bins(num_levels):
    edges = np.linspace(-1.0, 1.0, num_levels + 1)
    middles = (edges[1:] + edges[:-1]) / 2.0
    np.testing.assert_allclose(likelihood.encode(jnp.arange(num_levels), num_levels), middles, atol=1e-6)


@pytest.mark.parametrize("num_levels", NUM_LEVELS)
def test_clean_levels_come_back(num_levels):
    levels = all_levels(num_levels)
    encoded = likelihood.encode(levels, num_levels)
    np.testing.assert_array_equal(likelihood.most_likely_levels(encoded, num_levels), levels)


@pytest.mark.parametrize("num_levels", NUM_LEVELS)
def test_most_likely_levels_maximise_the_decoder(num_levels):
    z = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1.3, maxval=1.3)
    best = jnp.argmax(likelihood.decode(z, jnp.asarray(-6.0), num_levels), axis=-1)
    # Off the edges of the bins, where rounding decides between two equally likely levels.
    position = (np.asarray(z, np.float64) + 1.0) * num_levels / 2.0
    clear = np.abs(position - np.round(position)) > 1e-3
    assert clear.mean() > 0.95
    levels = likelihood.most_likely_levels(z, num_levels)
    np.testing.assert_array_equal(np.asarray(levels)[clear], np.asarray(best)[clear])


@pytest.mark.parametrize("num_levels", NUM_LEVELS)
@pytest.mark.parametrize("gamma_0", [-13.3, -4.0, 1.0])
def test_decode_is_a_distribution(num_levels, gamma_0):
    z = jax.random.normal(jax.random.key(1), (50,))
    log_probs = likelihood.decode(z, jnp.asarray(gamma_0), num_levels)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("num_levels", NUM_LEVELS)
def test_log_prob_against_float64(num_levels):
    key_levels, key_eps = jax.random.split(jax.random.key(2))
    levels = jax.random.randint(key_levels, (3, 4, 4, 2), 0, num_levels)
    gamma_0 = -5.0
    z = likelihood.encode(levels, num_levels) + np.exp(0.5 * gamma_0) * jax.random.normal(key_eps, levels.shape)
    values = 2.0 * (np.arange(num_levels) + 0.5) / num_levels - 1.0
    logits = -0.5 * (np.asarray(z, np.float64)[..., None] - values) ** 2 / np.exp(gamma_0)
    table = log_softmax(logits, axis=-1)
    expected = np.take_along_axis(table, np.asarray(levels)[..., None], axis=-1).sum(axis=(1, 2, 3, 4))
    result = likelihood.log_prob(levels, z, jnp.asarray(gamma_0), num_levels)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_log_prob_is_differentiable_like_the_table():
    levels = jax.random.randint(jax.random.key(3), (1, 3, 3, 1), 0, 17)
    z = likelihood.encode(levels, 17) + 0.05 * jax.random.normal(jax.random.key(4), levels.shape)

    def from_table(z, gamma_0):
        table = likelihood.decode(z, gamma_0, 17)
        return jnp.take_along_axis(table, levels[..., None], axis=-1).sum()

    def direct(z, gamma_0):
        return likelihood.log_prob(levels, z, gamma_0, 17).sum()

    for argnum in (0, 1):
        expected = jax.grad(from_table, argnum)(z, jnp.asarray(-5.0))
        actual = jax.grad(direct, argnum)(z, jnp.asarray(-5.0))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_bits_per_dimension_of_a_uniform_guess():
    nats = jnp.asarray([12 * np.log(256.0)])
    np.testing.assert_allclose(likelihood.nats_to_bpd(nats, 12), 8.0, rtol=1e-6)
