"""The network as one program that gives the same bits on every call, to the encoder and to the decoder.

Images go through it in calls of a fixed size. On a CPU each call runs on one thread, so that sums are not cut
differently on another number of cores or devices, and as many calls as there are cores run at the same time.
"""

import hashlib
import os
from collections.abc import Sequence
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


def images_per_call(model: VDM) -> int:
    """Return how many images a call takes: on a CPU those whose activations a core's cache holds."""
    height, width, _ = model.data.image_shape
    at_once = _CACHE_BYTES // (4 * height * width * model.model.n_embd)
    return max(1, min(at_once, _MOST_IMAGES_A_CALL)) if jax.default_backend() == "cpu" else _MOST_IMAGES_A_CALL


class Network:
    """eps_hat of a model, compiled for calls of a fixed number of images on the first device."""

    def __init__(self, model: VDM, params: Params, call_size: int) -> None:
        """Compile.

        Raises:
          ConfigError: a model with classes that was never trained without labels.
        """
        if model.model.num_classes and not model.model.label_dropout:
            raise ConfigError("a model with classes compresses only if it was trained with model.label_dropout")
        self.model, self.call_size = model, call_size
        self._device = jax.local_devices()[0]
        self._params = jax.device_put(params, self._device)
        spec = jax.ShapeDtypeStruct((call_size, *model.data.image_shape), np.float32)
        is_cpu = self._device.platform == "cpu"

        def eps_hat(params: Params, z: jax.Array, gamma: jax.Array) -> jax.Array:
            none = jnp.zeros(call_size)
            return model.eps_hat(params, z, jnp.broadcast_to(gamma, (call_size,)), none)

        with jax.default_device(self._device), jax.default_matmul_precision("float32"):
            lowered = jax.jit(eps_hat).lower(self._params, spec, jax.ShapeDtypeStruct((), np.float32))
            self._program = lowered.compile({"xla_cpu_multi_thread_eigen": False} if is_cpu else None)
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if is_cpu else 1, "network")

    def gammas(self, num_steps: int) -> Float[np.ndarray, " n"]:
        """Return gamma at the times 0, 1/T, ..., 1, float32."""
        times = jnp.asarray(np.arange(num_steps + 1) / num_steps, jnp.float32)
        return np.asarray(self.model.gamma(self._params, times), np.float32)

    def __call__(self, z: Float[np.ndarray, "b h w c"], gamma: float) -> Float32[np.ndarray, "b h w c"]:
        """Return eps_hat; rows that fill up the last call are zeros and left out again."""
        size = self.call_size
        calls = -(-len(z) // size)
        filled = np.zeros((calls * size, *z.shape[1:]), np.float32)
        filled[: len(z)] = z
        parts: Sequence[np.ndarray] = list(
            self._threads.map(lambda i: self._call(filled[i * size : (i + 1) * size], gamma), range(calls))
        )
        return np.concatenate(parts)[: len(z)]

    def _call(self, z: Float32[np.ndarray, "b h w c"], gamma: float) -> np.ndarray:
        return np.asarray(self._program(self._params, z, np.float32(gamma)))

    def probe(self, gammas: Float[np.ndarray, " n"]) -> str:
        """Return hex SHA-256 over all gammas and over what the network says about fixed latents at some of them."""
        digest = hashlib.sha256(np.asarray(gammas, "<f4").tobytes())
        shape = (self.call_size, *self.model.data.image_shape)
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
            "images_per_call": self.call_size,
            "dtype": self.model.compute_dtype,
            "matmul_precision": "float32",
            "threads_per_call": 1 if self._device.platform == "cpu" else None,
        }
