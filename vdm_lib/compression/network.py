"""The network as one program that gives the same bits on every call, to the encoder and to the decoder.

Images go through it in calls of a few fixed sizes; which ones, the number of images alone decides. On a CPU each call
runs on one thread, so that sums are not cut differently on another number of cores or devices, and as many calls as
there are cores run at the same time.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from vdm_lib.compression.stack import seed_words
from vdm_lib.errors import ConfigError
from vdm_lib.model import VDM
from vdm_lib.types import Params

# Of one layer's activations.
_CACHE_BYTES = 2 * 2**20
_MOST_IMAGES_A_CALL = 16
_PROBES = 5


def images_per_call(model: VDM) -> tuple[int, ...]:
    """Return how many images calls take, the largest first.

    On a CPU the largest have as many as a core's cache holds the activations of, and there are two smaller sizes for
    the first batches of a chunk: an image takes longer in them, but all cores have something to do.
    """
    if jax.default_backend() != "cpu":
        return (_MOST_IMAGES_A_CALL,)
    height, width, _ = model.data.image_shape
    at_once = _CACHE_BYTES // (4 * height * width * model.model.n_embd)
    large = max(1, min(at_once, _MOST_IMAGES_A_CALL))
    return tuple(dict.fromkeys(max(1, large // part) for part in (1, 2, 4)))


def calls(num_images: int, sizes: Sequence[int]) -> list[int]:
    """Return the sizes of the calls that images go through: the largest that two can be filled of, then smaller ones.

    The last one may have room left.
    """
    found: list[int] = []
    for size in sizes[:-1]:
        if num_images >= 2 * size:
            found += [size] * (num_images // size)
            num_images %= size
    return found + [sizes[-1]] * -(-num_images // sizes[-1])


class Network:
    """eps_hat of a model, compiled for calls of a few sizes on the first device."""

    def __init__(self, model: VDM, params: Params, sizes: tuple[int, ...]) -> None:
        """Compile for calls of so many images, different numbers with the largest first.

        Raises:
          ConfigError: a model with classes that was never trained without labels.
        """
        if model.model.needs_labels:
            raise ConfigError("a model with classes compresses only if it was trained with model.label_dropout")
        self.model, self.sizes = model, sizes
        self._device = jax.local_devices()[0]
        self._params = jax.device_put(params, self._device)
        self._is_cpu = self._device.platform == "cpu"
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if self._is_cpu else 1, "network")
        self._programs = dict(zip(sizes, self._threads.map(self._compiled, sizes), strict=True))

    def _compiled(self, size: int) -> Callable[..., jax.Array]:
        def eps_hat(params: Params, z: jax.Array, gamma: jax.Array) -> jax.Array:
            return self.model.eps_hat(params, z, jnp.broadcast_to(gamma, (size,)), jnp.zeros(size))

        spec = jax.ShapeDtypeStruct((size, *self.model.data.image_shape), np.float32)
        with jax.default_device(self._device), jax.default_matmul_precision("float32"):
            lowered = jax.jit(eps_hat).lower(self._params, spec, jax.ShapeDtypeStruct((), np.float32))
            return lowered.compile({"xla_cpu_multi_thread_eigen": False} if self._is_cpu else None)

    def gammas(self, num_steps: int) -> Float[np.ndarray, " n"]:
        """Return gamma at the times 0, 1/T, ..., 1, float32."""
        times = jnp.asarray(np.arange(num_steps + 1) / num_steps, jnp.float32)
        return np.asarray(self.model.gamma(self._params, times), np.float32)

    def __call__(self, z: Float[np.ndarray, "b h w c"], gamma: float) -> Float32[np.ndarray, "b h w c"]:
        """Return eps_hat; rows that fill up the last call are zeros and left out again."""
        sizes = calls(len(z), self.sizes)
        filled = np.zeros((sum(sizes), *z.shape[1:]), np.float32)
        filled[: len(z)] = z
        parts = self._threads.map(lambda part: self._call(part, gamma), np.split(filled, np.cumsum(sizes)[:-1]))
        return np.concatenate(list(parts))[: len(z)]

    def _call(self, z: Float32[np.ndarray, "b h w c"], gamma: float) -> np.ndarray:
        return np.asarray(self._programs[len(z)](self._params, z, np.float32(gamma)))

    def probe(self, gammas: Float[np.ndarray, " n"]) -> str:
        """Return hex SHA-256 over all gammas and over what each program says about fixed latents at some of them."""
        digest = hashlib.sha256(np.asarray(gammas, "<f4").tobytes())
        for size in self._programs:
            shape = (size, *self.model.data.image_shape)
            words = seed_words(int(np.prod(shape)), b"probe").reshape(shape)
            z = (words.astype(np.float64) * 2.0**-30 - 2.0).astype(np.float32)
            for i in np.linspace(0, len(gammas) - 1, min(_PROBES, len(gammas))).round().astype(int):
                digest.update(self._call(z, float(gammas[i])).astype("<f4").tobytes())
        return digest.hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what the bits of the result depend on."""
        return {
            "backend": self._device.platform,
            "device_kind": self._device.device_kind,
            "images_per_call": list(self.sizes),
            "dtype": self.model.compute_dtype,
            "matmul_precision": "float32",
            "threads_per_call": 1 if self._is_cpu else None,
        }
