"""The functions of a bundle as a TensorFlow SavedModel with named inputs and outputs; TensorFlow alone loads it.

    sample(num, seed, steps)        -> images, uint8 [num, h, w, c]
    eps(z, gamma, conditioning)     -> eps_hat, float32 [b, h, w, c]
    bpd(images, seed)               -> bpd, float32 [b], one estimate in bits per dimension for each image

num, seed and steps are int64 scalars. The parameters are variables, once for all signatures.

`python -m pipelines.bundle.saved_model BUNDLE` adds it to a bundle that has its parameters and config: a process of
its own, because TensorFlow takes memory, accelerators and the terminal for itself.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from safetensors.numpy import load_file

import configs
from vdm_lib.export import functions
from vdm_lib.export.stablehlo import PLATFORMS
from vdm_lib.model import VDM


def write(directory: Path, model: VDM, params: dict[str, Any]) -> None:
    """Write `directory`; TensorFlow must be installed."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")
    shape = model.data.image_shape
    batch = f"(b, {', '.join(map(str, shape))})"

    def convert(function: Any, *shapes: str | None) -> Any:
        return jax2tf.convert(
            function,
            polymorphic_shapes=[None, *shapes],
            with_gradient=False,
            native_serialization_platforms=PLATFORMS,
        )

    def eps_hat(params: Any, z: Any, gamma: Any, conditioning: Any) -> Any:
        return {"eps_hat": functions.eps_hat(model, params, z, gamma, conditioning)}

    def bpd(params: Any, images: Any, seed: Any) -> Any:
        return {"bpd": functions.bpd(model, params, images, seed)}

    def sample(params: Any, one_per_image: Any, seed: Any, steps: Any) -> Any:
        z_1, key_data = functions.start(model, one_per_image.shape[0], seed)
        return {"images": functions.images(model, params, z_1, key_data, steps)}

    converted = {
        "eps": convert(eps_hat, batch, "(b,)", "(b,)"),
        "bpd": convert(bpd, batch, None),
        # The number of images is a value for TensorFlow and a shape for XLA: an array of that length carries it.
        "sample": convert(sample, "(b,)", None, None),
    }
    module = tf.Module()
    module.params = {name: tf.Variable(value, name=name) for name, value in params.items()}

    def spec(name: str, shape: Any = (), dtype: Any = tf.int64) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    @tf.function(
        autograph=False,
        input_signature=[
            spec("z", (None, *shape), tf.float32),
            spec("gamma", (None,), tf.float32),
            spec("conditioning", (None,), tf.float32),
        ],
    )
    def tf_eps(z: Any, gamma: Any, conditioning: Any) -> Any:
        return converted["eps"](dict(module.params), z, gamma, conditioning)

    @tf.function(autograph=False, input_signature=[spec("images", (None, *shape), tf.uint8), spec("seed")])
    def tf_bpd(images: Any, seed: Any) -> Any:
        return converted["bpd"](dict(module.params), images, tf.cast(seed, tf.uint32))

    @tf.function(autograph=False, input_signature=[spec("num"), spec("seed"), spec("steps")])
    def tf_sample(num: Any, seed: Any, steps: Any) -> Any:
        one_per_image = tf.zeros(tf.stack([num]), tf.float32)
        return converted["sample"](
            dict(module.params), one_per_image, tf.cast(seed, tf.uint32), tf.cast(steps, tf.int32)
        )

    signatures = {"eps": tf_eps, "bpd": tf_bpd, "sample": tf_sample}
    # An accelerator would otherwise round the factors of every product to fewer bits.
    with jax.default_matmul_precision("float32"):
        tf.saved_model.save(module, str(directory), signatures=signatures)


def main(argv: list[str]) -> None:
    """Add `saved_model` to the bundle that the argument names."""
    bundle = Path(argv[0])
    config = configs.from_json((bundle / "config.json").read_text(), "config.json")
    write(bundle / "saved_model", VDM.from_config(config), load_file(bundle / "params.safetensors"))


if __name__ == "__main__":
    # The accelerator belongs to the process that exports.
    jax.config.update("jax_platforms", "cpu")
    main(sys.argv[1:])
