"""The network of a bundle as ONNX: eps_hat(z, gamma, conditioning), any batch size, standard operators only.

Of a class-conditional model it also takes labels, int32 [b].

`python -m pipelines.bundle.onnx_model BUNDLE` adds `model.onnx` to a bundle that has its parameters and config: a
process of its own, because jax2onnx changes jax while it converts. The sampler and bpd are not in it: their random
numbers are no operators of ONNX.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from safetensors.numpy import load_file

import configs
from vdm_lib.export import functions
from vdm_lib.model import VDM


def write(path: Path, model: VDM, params: dict[str, Any]) -> None:
    """Write the file; jax2onnx must be installed."""
    from jax2onnx import to_onnx

    def eps_hat(z: Any, gamma: Any, conditioning: Any, labels: Any = None) -> Any:
        return functions.eps_hat(model, params, z, gamma, conditioning, labels)

    labels = [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in functions.told_specs(model, "b").labels]
    to_onnx(
        eps_hat,
        inputs=[("b", *model.data.image_shape), ("b",), ("b",), *labels],
        input_names=["z", "gamma", "conditioning", *(["labels"] if labels else [])],
        output_names=["eps_hat"],
        model_name="eps_hat",
        return_mode="file",
        output_path=str(path),
    )


def main(argv: list[str]) -> None:
    """Add `model.onnx` to the bundle that the argument names."""
    bundle = Path(argv[0])
    config = configs.from_json((bundle / "config.json").read_text(), "config.json")
    write(bundle / "model.onnx", VDM.from_config(config), load_file(bundle / "params.safetensors"))


if __name__ == "__main__":
    # The accelerator belongs to the process that exports.
    jax.config.update("jax_platforms", "cpu")
    main(sys.argv[1:])
