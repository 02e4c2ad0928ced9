"""The training step of `cifar10`'s network as anyone would write it in Linen: the yardstick of compiling.

Layers are unrolled, nothing is formed again, norms and dropout are flax's own. It is compiled only, never run.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

FEATURES, NUM_LAYERS, DROPOUT, IMAGE_SHAPE = 128, 32, 0.1, (32, 32, 3)


class Block(nn.Module):
    """GroupNorm, swish and a 3x3 convolution, twice, with the conditioning in between, and a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array) -> jax.Array:
        """Return [b, h, w, FEATURES] for x [b, h, w, any]."""
        h = nn.Conv(FEATURES, (3, 3))(nn.swish(nn.GroupNorm(32)(x)))
        h = h + nn.Dense(FEATURES, use_bias=False)(cond)[:, None, None]
        h = nn.Dropout(DROPOUT, deterministic=False)(nn.swish(nn.GroupNorm(32)(h)))
        h = nn.Conv(FEATURES, (3, 3))(h)
        return h + (x if x.shape[-1] == FEATURES else nn.Dense(FEATURES)(x))


class Attention(nn.Module):
    """Self-attention with one head over all pixels, with a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return an array of x's shape."""
        h = nn.GroupNorm(32)(x).reshape(x.shape[0], -1, FEATURES)
        q, k, v = (nn.Dense(FEATURES)(h) for _ in range(3))
        weights = nn.softmax(jnp.einsum("bic,bjc->bij", q, k) / FEATURES**0.5)
        return x + nn.Dense(FEATURES)(jnp.einsum("bij,bjc->bic", weights, v)).reshape(x.shape)


class Network(nn.Module):
    """eps_hat(z_t, t) with `NUM_LAYERS` blocks down and one more up, attention in the middle."""

    @nn.compact
    def __call__(self, z: jax.Array, t: jax.Array) -> jax.Array:
        """Return eps_hat of z's shape [b, h, w, c]; t is gamma_t between 0 and 1, [b]."""
        angles = 1000 * t[:, None] * jnp.exp(-jnp.linspace(0, 9.21, FEATURES // 2))
        cond = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), jnp.zeros_like(t)[:, None]], 1)
        for _ in range(2):
            cond = nn.swish(nn.Dense(4 * FEATURES)(cond))
        waves = [wave(2.0**n * jnp.pi * z) for n in (6, 7) for wave in (jnp.sin, jnp.cos)]
        skips = [nn.Conv(FEATURES, (3, 3))(jnp.concatenate([z, *waves], -1))]
        for _ in range(NUM_LAYERS):
            skips.append(Block()(skips[-1], cond))
        h = Block()(Attention()(Block()(skips[-1], cond)), cond)
        for skip in reversed(skips):
            h = Block()(jnp.concatenate([h, skip], -1), cond)
        return nn.Conv(z.shape[-1], (3, 3))(nn.swish(nn.GroupNorm(32)(h))) + z


def training_step(batch_size: int) -> tuple[Callable[..., Any], Any, jax.ShapeDtypeStruct]:
    """Return (state, images) -> (state, loss) of AdamW and a moving average, and the shapes of both arguments."""
    network, optimizer = Network(), optax.adamw(2e-4, weight_decay=0.01)

    def init() -> Any:
        keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0)), strict=True))
        params = network.init(keys, jnp.zeros((1, *IMAGE_SHAPE)), jnp.zeros(1))["params"]
        return params, params, optimizer.init(params), jnp.zeros((), jnp.int32)

    def step(state: Any, images: jax.Array) -> tuple[Any, jax.Array]:
        params, average, opt_state, count = state
        key_t, key_eps, key_dropout = jax.random.split(jax.random.fold_in(jax.random.key(0), count), 3)
        x = 2 * (images.astype(jnp.float32) + 0.5) / 256 - 1
        t = (jax.random.uniform(key_t) + jnp.arange(batch_size) / batch_size) % 1.0
        gamma = (18.3 * t - 13.3)[:, None, None, None]
        eps = jax.random.normal(key_eps, x.shape)
        z = jnp.sqrt(nn.sigmoid(-gamma)) * x + jnp.sqrt(nn.sigmoid(gamma)) * eps

        def loss(params: Any) -> jax.Array:
            return jnp.mean((network.apply({"params": params}, z, t, rngs={"dropout": key_dropout}) - eps) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, optax.incremental_update(params, average, 1e-4), opt_state, count + 1), value

    return step, jax.eval_shape(init), jax.ShapeDtypeStruct((batch_size, *IMAGE_SHAPE), jnp.uint8)
