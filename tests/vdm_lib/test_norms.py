"""Group norms are those of flax, summed in another order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
