"""The score network: a U-Net without down-sampling (App. B of arXiv 2107.00630).

All blocks work at the full resolution. Layers carry the names of google-research/vdm, so that its published
parameters fit leaf by leaf; a name with a dot, `down.block_0`, is one part of a path.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from vdm_lib.config import RematKeeps
from vdm_lib.embedding import fourier_features, told
from vdm_lib.layers import stack_layers
from vdm_lib.noise import keep_masks
from vdm_lib.norms import GroupNorm
from vdm_lib.types import Conditioning, Key, KeyPerImage, Labels, Latents, PerImage

NUM_GROUPS = 32
_IMAGES = ("NHWC", "HWIO", "NHWC")

Layer = Callable[[Any, Any, Any, Any], Any]
"""(params, h or h and a skip connection, cond, what dropout keeps or the keys that say it) -> h."""
_CONV1, _MASK = "conv1", "mask"


class PixelDense(nn.Module):
    """The function and parameters of `flax.linen.Dense` at every pixel, as a 1x1 convolution.

    XLA's CPU backend is quicker at it forwards and backwards: 3 % of a training step.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Return x times the kernel, plus the bias."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (each.astype(self.dtype) for each in (x, kernel, bias))
        return jax.lax.conv_general_dilated(x, kernel[None, None], (1, 1), "VALID", dimension_numbers=_IMAGES) + bias


class ResnetBlock(nn.Module):
    """GroupNorm, swish and a 3x3 convolution, twice, with the conditioning added in between, and a shortcut."""

    features: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], cond: Float[Array, "b d"], mask: Bool[Array, "b h w o"] | None
    ) -> Float[Array, "b h w o"]:
        """Return [b, h, w, features] for x [b, h, w, any] and cond [b, any]; mask says what dropout keeps."""
        # The unnamed norms become GroupNorm_0 and GroupNorm_1, as in the original.
        h = _conv3x3(self.features, "conv1", self.dtype)(nn.swish(_group_norm(self.dtype)(x)))
        h = checkpoint_name(h, _CONV1)
        zeros = nn.initializers.zeros
        projection = nn.Dense(self.features, use_bias=False, kernel_init=zeros, name="cond_proj", dtype=self.dtype)
        h = h + projection(cond)[:, None, None, :]
        h = nn.swish(_group_norm(self.dtype)(h))
        if mask is not None:
            kept: Any = checkpoint_name(mask, _MASK)
            h = jnp.where(kept, h / (1.0 - self.dropout), 0.0)
        h = _conv3x3(self.features, "conv2", self.dtype, zeros)(h)
        if x.shape[-1] != self.features:
            x = PixelDense(self.features, name="nin_shortcut", dtype=self.dtype)(x)
        return x + h


class AttnBlock(nn.Module):
    """Self-attention with one head over all pixels, with a shortcut."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Latents) -> Latents:
        """Return an array of x's shape."""
        batch, height, width, channels = x.shape
        h = _group_norm(self.dtype)(x).reshape(batch, height * width, channels)
        q = nn.Dense(channels, name="q", dtype=self.dtype)(h) / math.sqrt(channels)
        k = nn.Dense(channels, name="k", dtype=self.dtype)(h)
        v = nn.Dense(channels, name="v", dtype=self.dtype)(h)
        logits = jnp.einsum("bic,bjc->bij", q, k, preferred_element_type=jnp.float32)
        h = jnp.einsum("bij,bjc->bic", nn.softmax(logits, axis=-1).astype(self.dtype), v)
        h = nn.Dense(channels, kernel_init=nn.initializers.zeros, name="proj_out", dtype=self.dtype)(h)
        return x + h.reshape(x.shape)


class ScoreUNet(nn.Module):
    """eps_hat(z_t, gamma_t): the noise that the network sees in z_t."""

    n_embd: int
    n_layer: int
    dropout: float
    with_attention: bool
    fourier_exponents: tuple[int, ...]
    gamma_min: float
    gamma_max: float
    num_classes: int = 0
    """0: no class is told."""
    remat: bool = False
    """Form the blocks' activations again in the backward pass instead of keeping them."""
    remat_keeps: RematKeeps = "nothing"
    """What remat keeps of a block after all: nothing, or the first convolution's result and the dropout mask."""
    scan: bool = False
    """Compile one block per direction and loop over the layers: the same function, compiled faster. Parameters may
    then have their layers stacked, which saves copying them."""
    dtype: Any = jnp.float32
    """Type of the activations inside; parameters, embedding, softmax and output are float32."""

    @nn.compact
    def __call__(
        self,
        z: Latents,
        gamma_t: PerImage,
        conditioning: Conditioning,
        dropout_keys: KeyPerImage | None = None,
        labels: Labels | None = None,
    ) -> Latents:
        """Return eps_hat of z's shape, float32.

        Args:
          z: noisy latents z_t, [b, h, w, c].
          gamma_t: gamma(t) of each image, [b].
          conditioning: one number per image, [b]: 1 where augmentation touched the image, else 0.
          dropout_keys: one for each image, [b]; they turn dropout on.
          labels: class of each image, [b], num_classes where none is told; only with classes.
        """
        # The constants of the config, not the learned end points: the original's choice, kept for its checkpoints.
        t = (gamma_t - self.gamma_min) / (self.gamma_max - self.gamma_min)
        cond = told(t, conditioning, labels, self.n_embd, self.num_classes, self.dtype)

        h = z
        if self.fourier_exponents:
            h = jnp.concatenate([z, fourier_features(z, self.fourier_exponents)], axis=-1)
        h = _conv3x3(self.n_embd, "conv_in", self.dtype)(h)
        dropout_keys = dropout_keys if self.dropout > 0.0 else None
        # Row n holds the keys of block n in the order of the calls, however the layers are compiled.
        keys = None if dropout_keys is None else _keys_per_block(dropout_keys, 2 * self.n_layer + 3)
        up_from = self.n_layer + 2
        scan = self.scan and not self.is_initializing()
        size = (*z.shape[1:3], self.n_embd)
        # All masks in one draw where layers are not looped over: a draw each takes an eighth more to compile.
        masks = None if keys is None or scan else keep_masks(keys, self.dropout, size)

        def mask(i: int) -> Bool[Array, "b h w o"] | None:
            if masks is not None:
                return masks[i]
            return None if keys is None else keep_masks(keys[i], self.dropout, size)

        layer = self._layer(looped=scan)
        # A call of one function for all layers of a shape, so that it is traced and lowered once.
        call = jax.jit(layer)

        def level(direction: str, i: int, parts: tuple[Latents, ...], block: int) -> Latents:
            if self.is_initializing():
                h = self._block(f"{direction}.block_{i}")(jnp.concatenate(parts, axis=-1), cond, mask(block))
                return self._attention(f"{direction}.attn_{i}")(h) if self.with_attention else h
            return call(self._params_of(direction, i), parts, cond, mask(block))

        skips: Any = [h]
        stacked = self._stacked() if scan else {}
        if scan:
            # The first layer in the middle is the last turn of the loop.
            h, skips = self._scan_down(layer, stacked["down"], h, cond, _part(keys, 0, self.n_layer + 1))
        else:
            for i in range(self.n_layer):
                h = level("down", i, (h,), i)
                skips.append(h)
            h = self._block("mid.block_1")(h, cond, mask(self.n_layer))
        if not (scan and self.with_attention):
            h = self._attention("mid.attn_1")(h)
        h = self._block("mid.block_2")(h, cond, mask(self.n_layer + 1))
        if scan:
            h = self._scan_up(layer, stacked["up"], h, cond, _part(keys, up_from, None), skips)
        else:
            for i in range(self.n_layer + 1):
                h = level("up", i, (h, skips.pop()), up_from + i)
        h = nn.swish(_group_norm(self.dtype)(h))
        h = _conv3x3(z.shape[-1], "conv_out", self.dtype, nn.initializers.zeros)(h)
        return h.astype(z.dtype) + z

    def _block(self, name: str) -> ResnetBlock:
        block = nn.remat(ResnetBlock, policy=self._kept) if self.remat else ResnetBlock
        return block(self.n_embd, self.dropout, self.dtype, name=name)

    def _attention(self, name: str) -> AttnBlock:
        attention = nn.remat(AttnBlock) if self.remat else AttnBlock
        return attention(self.dtype, name=name)

    @property
    def _kept(self) -> Any:
        """Return what says which results remat keeps, None for none."""
        return jax.checkpoint_policies.save_only_these_names(_CONV1, _MASK) if self.remat_keeps == "costly" else None

    def _scan_down(
        self, layer: Layer, stacked: Any, h: Latents, cond: Float[Array, "b d"], keys: Any
    ) -> tuple[Latents, Float[Array, "n b h w i"]]:
        """Return what comes out of the first layer in the middle, and what goes into it and into each before."""

        def body(h: Latents, of_layer: Any) -> tuple[Latents, Latents]:
            params, key = of_layer
            return layer(params, (h,), cond, key), h

        return jax.lax.scan(body, h, (stacked, keys))

    def _scan_up(
        self,
        layer: Layer,
        stacked: Any,
        h: Latents,
        cond: Float[Array, "b d"],
        keys: Any,
        skips: Float[Array, "n b h w i"],
    ) -> Latents:
        """Return what comes out of the way up."""

        def body(h: Latents, of_layer: Any) -> tuple[Latents, None]:
            params, key, skip = of_layer
            return layer(params, (h, skip), cond, key), None

        return jax.lax.scan(body, h, (stacked, keys, skips[::-1]))[0]

    def _layer(self, looped: bool) -> Layer:
        """Return one block and its attention as a function outside of this module's names.

        In a loop it draws its own mask, from keys. The parts of its input are joined inside, so that remat keeps the
        parts, of which the skip connections are kept anyway.
        """
        block = ResnetBlock(self.n_embd, self.dropout, self.dtype, parent=None)
        attention = AttnBlock(self.dtype, parent=None)

        def apply(params: Any, parts: Any, cond: Any, dropout: Any) -> Any:
            h = jnp.concatenate(parts, axis=-1)
            if looped and dropout is not None:
                dropout = keep_masks(dropout, self.dropout, (*h.shape[1:3], self.n_embd))
            h = block.apply({"params": params["block"]}, h, cond, dropout)
            return attention.apply({"params": params["attn"]}, h) if self.with_attention else h

        return jax.checkpoint(apply, policy=self._kept) if self.remat else apply

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("block", "attn") if self.with_attention else ("block",)

    def _params_of(self, direction: str, i: int) -> dict[str, Any]:
        """Return the parameters of one layer by their kind."""
        return {kind: self.variables["params"][f"{direction}.{kind}_{i}"] for kind in self._kinds}

    def _stacked(self) -> dict[str, Any]:
        """Return the parameters of all layers by direction and kind, with the layers as first axis."""
        params = stack_layers(self.variables["params"])
        return {
            direction: {kind: params[f"{direction}.{kind}"] for kind in self._kinds} for direction in ("down", "up")
        }


def _keys_per_block(keys: KeyPerImage, num_blocks: int) -> Any:
    """Return keys [block, image]."""
    return jax.vmap(lambda n: jax.vmap(lambda key: jax.random.fold_in(key, n))(keys))(jnp.arange(num_blocks))


def _part(keys: Any, start: int, stop: int | None) -> Any:
    return None if keys is None else keys[start:stop]


def _group_norm(dtype: Any) -> GroupNorm:
    return GroupNorm(NUM_GROUPS, dtype=dtype)


def _conv3x3(features: int, name: str, dtype: Any, kernel_init: Callable[..., Any] | None = None) -> nn.Conv:
    init = kernel_init or kernel_normals
    return nn.Conv(features, (3, 3), kernel_init=init, name=name, dtype=dtype)


def kernel_normals(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Return the numbers of `lecun_normal` for a kernel [..., inputs, outputs], drawn as a matrix; see `noise`."""
    return nn.initializers.lecun_normal()(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)
