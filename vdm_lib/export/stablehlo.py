"""The functions of a bundle as StableHLO by `jax.export`: one file each, any batch size, for cpu, cuda and tpu.

Each takes flat parameters first:

    eps.jaxexport      (params, z_t [b,h,w,c], gamma_t [b], conditioning [b]) -> eps_hat [b,h,w,c], float32
    bpd.jaxexport      (params, images uint8 [b,h,w,c], seed uint32 []) -> bits per dimension [b], float32
    sampler.jaxexport  (params, z_1 [b,h,w,c] standard normal, key_data uint32 [2], num_steps int32 [])
                       -> images uint8 [b,h,w,c]

Those of a class-conditional model take labels int32 [b] last, the sampler after them guidance float32 [], if the model
was trained without labels too.
"""

from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jax.stages import Wrapped

from vdm_lib.export import functions
from vdm_lib.model import VDM

PLATFORMS = ("cpu", "cuda", "tpu")


def serialise(model: VDM, params: dict[str, Any]) -> dict[str, bytes]:
    """Return the content of each file by its name.

    Args:
        model: the model.
        params: flat parameters, arrays or their shapes.
    """
    (batch,) = jax_export.symbolic_shape("b")
    images = (batch, *model.data.image_shape)

    def spec(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    jitted, told = functions.jitted(model), functions.told_specs(model, batch)
    arguments: dict[str, tuple[Wrapped, list[jax.ShapeDtypeStruct]]] = {
        "eps.jaxexport": (
            jitted.eps_hat,
            [spec(images, np.float32), spec((batch,), np.float32), spec((batch,), np.float32), *told.labels],
        ),
        "bpd.jaxexport": (jitted.bpd, [spec(images, np.uint8), spec((), np.uint32), *told.labels]),
        "sampler.jaxexport": (
            jitted.images,
            [spec(images, np.float32), spec((2,), np.uint32), spec((), np.int32), *told.labels, *told.guidance],
        ),
    }
    params_spec = {name: spec(x.shape, x.dtype) for name, x in params.items()}
    # An accelerator would otherwise round the factors of every product to fewer bits.
    with jax.default_matmul_precision("float32"):
        return {
            name: bytes(
                jax_export.export(function, platforms=PLATFORMS)(params_spec, *specs).serialize(),
            )
            for name, (function, specs) in arguments.items()
        }
