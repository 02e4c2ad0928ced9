"""Another order of summation in group norms is the same function."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_lib.norms import pixels_first


def test_it_is_the_same_function_in_another_order():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, (3, 4, 5, 8)), jnp.float32)
    norm = nn.GroupNorm(num_groups=4, epsilon=1e-6)
    params = {"scale": rng.normal(size=8).astype(np.float32), "bias": rng.normal(size=8).astype(np.float32)}
    expected = norm.apply({"params": params}, x)
    with pixels_first():
        found = norm.apply({"params": params}, x)
        program = jax.make_jaxpr(lambda x: norm.apply({"params": params}, x))(x)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=2e-5)
    # It was that order indeed: images and channels are left when the pixels are summed.
    assert "f32[3,8] = reduce_sum" in str(program)


def test_in_bfloat16_means_are_formed_in_float32_as_in_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(100.0, 1.0, (2, 16, 16, 8)), jnp.bfloat16)
    norm = nn.GroupNorm(num_groups=4, epsilon=1e-6, dtype=jnp.bfloat16)
    params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    expected = norm.apply({"params": params}, x)
    with pixels_first():
        found = norm.apply({"params": params}, x)
    assert isinstance(found, jax.Array) and isinstance(expected, jax.Array)
    assert found.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=0.02)
