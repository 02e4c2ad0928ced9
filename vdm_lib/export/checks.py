"""Given inputs of the exported functions and what the model itself says to them, for everyone who loads a bundle."""

from contextlib import nullcontext
from typing import Any

import jax
import numpy as np

from vdm_lib.export import functions
from vdm_lib.model import VDM

SEED = 7
NUM_STEPS = 3
GUIDANCE = 1.5


def given_inputs(model: VDM, num_images: int) -> dict[str, np.ndarray]:
    """Return named inputs of eps, bpd and the sampler for num_images each, with those of classes if they take them."""
    random = np.random.Generator(np.random.Philox(0))
    shape = (num_images, *model.data.image_shape)
    with _on_cpu():
        z_1, key_data = jax.jit(lambda seed: functions.start(model, num_images, seed))(np.uint32(SEED))
    told = functions.told_specs(model, num_images)
    # No class is one more where the model knows it.
    labels = np.arange(num_images, dtype=np.int32) % (model.model.num_classes + len(told.guidance) or 1)
    of_classes = {"labels": labels} if told.labels else {}
    of_classes |= {"guidance": np.asarray(GUIDANCE, np.float32)} if told.guidance else {}
    return of_classes | {
        "z_t": random.standard_normal(shape, dtype=np.float32),
        "gamma_t": np.linspace(model.model.gamma_min, model.model.gamma_max, num_images, dtype=np.float32),
        "conditioning": np.arange(num_images, dtype=np.float32) % 2,
        "images": random.integers(0, model.data.num_levels, shape, dtype=np.uint8),
        "seed": np.asarray(SEED, np.uint32),
        "z_1": np.asarray(z_1),
        "key_data": np.asarray(key_data),
        "num_steps": np.asarray(NUM_STEPS, np.int32),
    }


def expected_outputs(model: VDM, params: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return eps_hat, bpd and samples of the given inputs, computed on the CPU, as a checker's will be."""
    jitted = functions.jitted(model)
    calls = {
        "eps_hat": (jitted.eps_hat, ("z_t", "gamma_t", "conditioning", "labels")),
        "bpd": (jitted.bpd, ("images", "seed", "labels")),
        "samples": (jitted.images, ("z_1", "key_data", "num_steps", "labels", "guidance")),
    }
    with _on_cpu(), jax.default_matmul_precision("float32"):
        return {
            name: np.asarray(function(params, *(given[key] for key in keys if key in given)))
            for name, (function, keys) in calls.items()
        }


def _on_cpu() -> Any:
    # Naming the default device would compile anew what was compiled without a name.
    if jax.default_backend() == "cpu":
        return nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])
