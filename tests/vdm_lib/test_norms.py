"""Group norms are those of flax, summed in another order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_lib.norms import GroupNorm


def test_it_is_the_function_of_flax_in_another_order():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, (3, 4, 5, 8)), jnp.float32)
    params = {"params": {name: rng.normal(size=8).astype(np.float32) for name in ("scale", "bias")}}
    norm = GroupNorm(num_groups=4)
    expected = nn.GroupNorm(num_groups=4, epsilon=1e-6).apply(params, x)
    np.testing.assert_allclose(np.asarray(norm.apply(params, x)), np.asarray(expected), atol=2e-5)
    # It is that order indeed: images and channels are left when the pixels are summed.
    assert "f32[3,8] = reduce_sum" in str(jax.make_jaxpr(norm.apply)(params, x))


@pytest.mark.parametrize("shape", [(3, 4, 5, 8), (6, 8)], ids=["images", "no pixels"])
def test_its_derivatives_are_those_of_flax(shape):
    rng = np.random.default_rng(1)
    x, dx, weights = (jnp.asarray(rng.normal(1.0, 2.0, shape), jnp.float32) for _ in range(3))
    params = {"params": {name: jnp.asarray(rng.normal(size=8), jnp.float32) for name in ("scale", "bias")}}
    dparams = jax.tree.map(lambda leaf: 0.3 * leaf + 0.1, params)
    ours, theirs = (
        lambda params, x, norm=norm: norm(num_groups=4, epsilon=1e-6).apply(params, x)
        for norm in (GroupNorm, nn.GroupNorm)
    )

    def backward(norm):
        return jax.grad(lambda params, x: jnp.sum(weights * norm(params, x) ** 2), argnums=(0, 1))(params, x)

    def forward(norm):
        return jax.jvp(norm, (params, x), (dparams, dx))

    def twice(norm):
        slope = jax.grad(lambda x: jnp.sum(weights * norm(params, x) ** 2))
        return jax.jvp(slope, (x,), (dx,))

    for differentiated in (backward, forward, twice):
        for one, other in zip(*map(jax.tree.leaves, (differentiated(ours), differentiated(theirs))), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * float(np.abs(other).max()))


def test_its_parameters_are_those_of_flax():
    x = jnp.zeros((2, 3, 3, 64))
    found, expected = (norm(num_groups=32).init(jax.random.key(0), x) for norm in (GroupNorm, nn.GroupNorm))
    jax.tree.map(lambda ours, theirs: np.testing.assert_array_equal(ours, theirs, strict=True), found, expected)


def test_in_bfloat16_means_are_formed_in_float32_as_in_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(100.0, 1.0, (2, 16, 16, 8)), jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    expected = nn.GroupNorm(num_groups=4, epsilon=1e-6, dtype=jnp.bfloat16).apply(params, x)
    found = GroupNorm(num_groups=4, dtype=jnp.bfloat16).apply(params, x)
    assert isinstance(found, jax.Array) and isinstance(expected, jax.Array)
    assert found.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=0.02)
