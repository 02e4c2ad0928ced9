"""The functions of a bundle as a TensorFlow SavedModel with named inputs and outputs; TensorFlow alone loads it.

    sample(num, seed, steps)        -> images, uint8 [num, h, w, c]
    eps(z, gamma, conditioning)     -> eps_hat, float32 [b, h, w, c]
    bpd(images, seed)               -> bpd, float32 [b], one estimate in bits per dimension for each image

num, seed and steps are int64 scalars. The parameters are variables, once for all signatures.

Of a class-conditional model, with labels int64 [b] that must lie in 0..num_classes, where the last tells no class:

    sample(labels, guidance, seed, steps), eps(z, gamma, conditioning, labels), bpd(images, seed, labels)

guidance is a float32 scalar. A model that was never trained without labels takes none, and no label num_classes.

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

    model_told = functions.told_specs(model, "b")
    has_labels, has_guidance = bool(model_told.labels), bool(model_told.guidance)

    def eps_hat(params: Any, z: Any, gamma: Any, conditioning: Any, labels: Any = None) -> Any:
        return {"eps_hat": functions.eps_hat(model, params, z, gamma, conditioning, labels)}

    def bpd(params: Any, images: Any, seed: Any, labels: Any = None) -> Any:
        return {"bpd": functions.bpd(model, params, images, seed, labels)}

    def sample(params: Any, one_per_image: Any, seed: Any, steps: Any, guidance: Any = None) -> Any:
        z_1, key_data = functions.start(model, one_per_image.shape[0], seed)
        labels = one_per_image if has_labels else None
        return {"images": functions.images(model, params, z_1, key_data, steps, labels, guidance)}

    per_image = ["(b,)"] if has_labels else []
    converted = {
        "eps": convert(eps_hat, batch, "(b,)", "(b,)", *per_image),
        "bpd": convert(bpd, batch, None, *per_image),
        # The number of images is a value for TensorFlow and a shape for XLA: an array of that length carries it.
        "sample": convert(sample, "(b,)", None, None, *([None] if has_guidance else [])),
    }
    module = tf.Module()
    module.params = {name: tf.Variable(value, name=name) for name, value in params.items()}

    def spec(name: str, shape: Any = (), dtype: Any = tf.int64) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    def checked(labels: Any) -> Any:
        most = model.model.num_classes - (0 if has_guidance else 1)
        message = f"labels must lie in 0..{most}"
        tf.debugging.assert_greater_equal(labels, tf.constant(0, tf.int64), message)
        tf.debugging.assert_less_equal(labels, tf.constant(most, tf.int64), message)
        return tf.cast(labels, tf.int32)

    labels_spec = [spec("labels", (None,))] if has_labels else []

    @tf.function(
        autograph=False,
        input_signature=[
            spec("z", (None, *shape), tf.float32),
            spec("gamma", (None,), tf.float32),
            spec("conditioning", (None,), tf.float32),
            *labels_spec,
        ],
    )
    def tf_eps(z: Any, gamma: Any, conditioning: Any, *labels: Any) -> Any:
        return converted["eps"](dict(module.params), z, gamma, conditioning, *map(checked, labels))

    @tf.function(
        autograph=False, input_signature=[spec("images", (None, *shape), tf.uint8), spec("seed"), *labels_spec]
    )
    def tf_bpd(images: Any, seed: Any, *labels: Any) -> Any:
        return converted["bpd"](dict(module.params), images, tf.cast(seed, tf.uint32), *map(checked, labels))

    def tf_sample(which: Any, seed: Any, steps: Any, *guidance: Any) -> Any:
        one_per_image = checked(which) if has_labels else tf.zeros(tf.stack([which]), tf.float32)
        return converted["sample"](
            dict(module.params), one_per_image, tf.cast(seed, tf.uint32), tf.cast(steps, tf.int32), *guidance
        )

    which_spec = labels_spec or [spec("num")]
    guidance_spec = [spec("guidance", (), tf.float32)] if has_guidance else []
    sample_spec = [*which_spec, spec("seed"), spec("steps"), *guidance_spec]
    signatures = {
        "eps": tf_eps,
        "bpd": tf_bpd,
        "sample": tf.function(tf_sample, autograph=False, input_signature=sample_spec),
    }
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
