"""Group norms in another order of summation: over the pixels first, then over the channels of a group.

Flax sums over both at once. XLA's CPU backend makes a loop without vectors of that, a fifth of the time of a network
on 8x8 pixels that is only applied; and of the 512 channels on the way up a TPU's compiler makes a kernel that it takes
for as long as a convolution. In a training step on CPU this order is far slower: benchmarks/NOTES.md.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def pixels_first() -> AbstractContextManager[None]:
    """Return a context in which group norms sum over pixels first; results differ by float32 rounding alone."""
    return nn.intercept_methods(_sum_pixels_first)


def _sum_pixels_first(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    norm = context.module
    if not isinstance(norm, nn.GroupNorm) or norm.num_groups is None or context.method_name != "__call__":
        return call(*args, **kwargs)
    (x,) = args
    pixels, channels = tuple(range(1, x.ndim - 1)), x.shape[-1]

    def of_group(values: jax.Array) -> jax.Array:
        means = values.mean(pixels).reshape(-1, norm.num_groups, channels // norm.num_groups).mean(-1)
        return jnp.repeat(means, channels // norm.num_groups, axis=-1).reshape(-1, *(1 for _ in pixels), channels)

    in_float32 = x.astype(jnp.float32)
    mean = of_group(in_float32)
    variance = jnp.maximum(of_group(jnp.square(in_float32)) - jnp.square(mean), 0.0)
    params = norm.variables["params"]
    normal = (in_float32 - mean) * (jax.lax.rsqrt(variance + norm.epsilon) * params["scale"]) + params["bias"]
    return normal.astype(norm.dtype or jnp.float32)
