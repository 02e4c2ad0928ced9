"""The model card of a bundle: Markdown with the front matter of the Hugging Face hub, made of what was measured."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from vdm_lib.config import Config
from vdm_lib.report import BpdReport, digits_of, with_error

LICENSE = "apache-2.0"
UNKNOWN = "not recorded"
_UNCONDITIONAL = "unconditional-image-generation"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What the training cost; None where no record says it."""

    steps: int
    images: int
    """Images seen, each as often as it was drawn."""
    flops: float | None = None
    """Floating-point operations of the network: three times those of the forward passes."""
    hours: float | None = None
    devices: str | None = None


@dataclass(frozen=True, kw_only=True)
class Samples:
    """How `samples.png` was drawn."""

    num: int
    steps: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card says; nothing is looked up or guessed."""

    config: Config
    step: int
    num_params: int
    report: BpdReport | None
    fingerprints: dict[str, str]
    """Hex SHA-256 over the ordered images and labels, by split."""
    data_version: str | None
    compute: Compute
    samples: Samples
    differences: dict[str, float]
    """Largest measured difference from the model, by file or signature."""
    tolerances: dict[str, float]
    has_saved_model: bool
    has_onnx: bool
    notes: dict[str, str] = field(default_factory=dict)
    """Files that were left out or not checked, and why."""


def card(facts: CardFacts) -> str:
    """Return the text of `README.md`."""
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True, width=1000)
    parts = [_head(facts), _measured(facts), _data(facts), _loading(facts), _checked(facts), _limits(facts)]
    return f"---\n{front}---\n\n" + "\n".join(part.strip() + "\n" for part in parts if part)


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    data, report = facts.config.data, facts.report
    classes = facts.config.model.num_classes
    front: dict[str, Any] = {"license": LICENSE, "library_name": "jax"}
    tags = ["diffusion", "variational-diffusion-model", "likelihood", "density-estimation", data.name]
    # The hub has no task for images of a class.
    front |= {} if classes else {"pipeline_tag": _UNCONDITIONAL}
    front |= {"tags": [*tags, "class-conditional"] if classes else tags, "datasets": [data.name]}
    if report is not None:
        digits = digits_of(report.bpd_stderr)
        metric = {
            "type": "bits_per_dimension",
            "name": "bits per dimension (upper bound on the negative log-likelihood)",
            "value": round(report.bpd, digits),
        }
        # The hub takes numbers only, and knows no error of a number.
        error = {
            "type": "bits_per_dimension_standard_error",
            "name": "Monte Carlo standard error of it",
            "value": round(report.bpd_stderr, digits),
        }
        dataset = {"type": data.name, "name": data.name, "split": report.split, "revision": report.data_fingerprint}
        task = {
            "type": "class-conditional-image-generation" if classes else _UNCONDITIONAL,
            "name": "density estimation",
        }
        results = [{"task": task, "dataset": dataset, "metrics": [metric, error]}]
        front["model-index"] = [{"name": f"vdm-{facts.config.name}", "results": results}]
    return front


def _head(facts: CardFacts) -> str:
    height, width, channels = facts.config.data.image_shape
    samples, classes = facts.samples, facts.config.model.num_classes
    of_classes = f", all {classes} classes in turn, a column each" if classes else ""
    return f"""# Variational diffusion model of {facts.config.data.name}

Images of {height}x{width}x{channels}, {facts.config.data.num_levels} levels a channel. {facts.num_params:,} parameters:
they are the exponential moving average at step {facts.step:,} of the experiment `{facts.config.name}`.
Method: Variational Diffusion Models, [arXiv 2107.00630](https://arxiv.org/abs/2107.00630).

![{samples.num} samples](samples.png)

{samples.num} samples{of_classes}, {samples.steps} ancestral steps each, seed {samples.seed}, not selected."""


def _measured(facts: CardFacts) -> str:
    report = facts.report
    if report is None:
        return "## Bits per dimension\n\nNot measured. This checkpoint has no evaluation, so no number is given."
    rows = [
        ("bits per dimension", with_error(report.bpd, report.bpd_stderr)),
        ("reconstruction, prior, diffusion", _three(report)),
        ("split", f"{report.split}, {report.num_images:,} images x {report.passes} passes"),
        ("time", f"{report.timesteps} steps" if report.timesteps else "continuous"),
        ("parameters", report.params),
    ]
    if report.labels:
        rows.append(("labels", report.labels))
    if report.bpd_test_set_stderr is not None:
        error = report.bpd_test_set_stderr
        rows.insert(1, ("standard error for another test set", f"{error:.{digits_of(error)}f}"))
    return (
        "## Bits per dimension\n\nAn upper bound on the negative log-likelihood of discrete images, no dequantisation; "
        "± is the Monte Carlo\nstandard error. `metrics.json` has all digits.\n\n" + _table(("measure", "value"), rows)
    )


def _three(report: BpdReport) -> str:
    digits = digits_of(report.bpd_stderr)
    return ", ".join(f"{bpd:.{digits}f}" for bpd in (report.bpd_recon, report.bpd_latent, report.bpd_diff))


def _data(facts: CardFacts) -> str:
    compute = facts.compute
    rows = [("data set", facts.config.data.name), ("version", facts.data_version or UNKNOWN)]
    rows += [(f"{split} fingerprint (SHA-256)", f"`{digest}`") for split, digest in sorted(facts.fingerprints.items())]
    rows += [
        ("augmentation", facts.config.data.augmentation),
        (
            "training steps x batch",
            f"{compute.steps:,} x {facts.config.train.batch_size:,} = {compute.images:,} images",
        ),
        ("network operations in training", UNKNOWN if compute.flops is None else f"{compute.flops:.2g} FLOP"),
        ("hours of training steps", UNKNOWN if compute.hours is None else f"{compute.hours:.3g}"),
        ("devices", compute.devices or UNKNOWN),
        ("optimiser", f"AdamW, rate {facts.config.optim.learning_rate:g}, EMA {facts.config.optim.ema_rate:g}"),
    ]
    return "## Data and training\n\n" + _table(("what", "value"), rows)


def _loading(facts: CardFacts) -> str:
    shape, model = ", ".join(map(str, facts.config.data.image_shape)), facts.config.model
    classes, guided = model.num_classes, model.guidable
    parts = [_LOAD_HEAD]
    if classes:
        parts.append(_LOAD_CLASSES.format(last=classes - 1) + (_LOAD_GUIDED.format(none=classes) if guided else ""))
    jax_labels, tf_labels = (", labels", ", labels=labels") if classes else ("", "")
    words = {
        "shape": shape,
        "jax_labels": jax_labels,
        "make_labels": f"labels = np.arange(4, dtype=np.int32) % {classes}\n" if classes else "",
        "jax_guidance": ", np.float32(1.0)" if guided else "",
    }
    parts.append(_LOAD_JAX.format(**words))
    if facts.has_saved_model:
        which = "labels=labels" if classes else "num=integer(4)"
        words = {
            "which": which + (", guidance=tf.constant(1.0)" if guided else ""),
            "tf_labels": tf_labels,
            "make_labels": f"labels = integer([k % {classes} for k in range(4)])\n" if classes else "",
        }
        parts.append(_LOAD_TENSORFLOW.format(**words))
    if facts.has_onnx:
        labels = f', "labels": np.arange(4, dtype=np.int32) % {classes}' if classes else ""
        parts.append(_LOAD_ONNX.format(shape=shape, labels=labels))
    return "\n".join([*parts, _LOAD_REST])


def _checked(facts: CardFacts) -> str:
    rows = [
        (
            f"`{name}`",
            "mean difference / largest value" if "sample" in name else "largest difference / largest value",
            f"{facts.tolerances[name]:.0e}",
            f"{difference:.1e}",
        )
        for name, difference in sorted(facts.differences.items())
    ]
    notes = "".join(f"\n`{name}`: {why}.\n" for name, why in sorted(facts.notes.items()))
    return (
        "## Checked before publication\n\nEach file was loaded in a fresh process on a CPU that could not import the "
        "training code, and compared with the\nmodel on the inputs in `check.npz`.\n\n"
        + _table(("file", "measure", "allowed", "measured"), rows)
        + notes
    )


def _limits(facts: CardFacts) -> str:
    return _LIMITS.format(of_number="" if facts.report is None else _OF_NUMBER)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


_LOAD_HEAD = """## Use

The training code is not needed. In all formats gamma = -log SNR, the conditioning is 0, images are uint8 levels and
the batch size is free.
"""

_LOAD_CLASSES = """The model knows classes 0 to {last}: every function takes labels, the class of each image.
"""

_LOAD_GUIDED = """Label {none} tells no class. Samplers also take the weight w of class-free guidance,
(1 + w) eps_hat(class) - w eps_hat(no class): 0 is the class alone.
"""

_LOAD_JAX = """StableHLO, `pip install jax safetensors flatbuffers`:

```python
import jax, jax.export, numpy as np, safetensors.numpy
params = safetensors.numpy.load_file("params.safetensors")
load = lambda name: jax.export.deserialize(bytearray(open(name, "rb").read())).call
z_1 = np.random.default_rng(0).standard_normal((4, {shape}), dtype=np.float32)
{make_labels}key, steps = np.array([0, 1], np.uint32), np.int32(20)
images = load("sampler.jaxexport")(params, z_1, key, steps{jax_labels}{jax_guidance})
bpd = load("bpd.jaxexport")(params, images, np.uint32(0){jax_labels})  # one estimate per image; average over seeds
eps_hat = load("eps.jaxexport")(params, z_1, np.zeros(4, np.float32), np.zeros(4, np.float32){jax_labels})
```
"""

_LOAD_TENSORFLOW = """TensorFlow, `pip install tensorflow`:

```python
import tensorflow as tf
model = tf.saved_model.load("saved_model").signatures
integer = lambda value: tf.constant(value, tf.int64)
{make_labels}images = model["sample"]({which}, seed=integer(0), steps=integer(20))["images"]
bpd = model["bpd"](images=images, seed=integer(0){tf_labels})["bpd"]
z = tf.random.normal(images.shape)
eps_hat = model["eps"](z=z, gamma=tf.zeros(4), conditioning=tf.zeros(4){tf_labels})["eps_hat"]
```
"""

_LOAD_ONNX = """ONNX, the network alone, `pip install onnxruntime`:

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
z = np.random.default_rng(0).standard_normal((4, {shape}), dtype=np.float32)
zeros = np.zeros(4, np.float32)
(eps_hat,) = session.run(["eps_hat"], {{"z": z, "gamma": zeros, "conditioning": zeros{labels}}})
```
"""

_LOAD_REST = """With the training code: `from vdm_lib import load; model = load("DIRECTORY")`.

`config.json` is the experiment, `provenance.json` says which code and packages made this. `python verify.py` checks
all of it again, `sha256sum -c SHA256SUMS` the bytes.
"""

_LIMITS = """## Limits

{of_number}Likelihood is not image quality: no FID was measured. The model knows the named data only,
with its biases, and may reproduce training images. Single estimates of `bpd` vary strongly with their time and noise:
average many. Results on accelerators differ from those on a CPU in the last digits.
"""
_OF_NUMBER = """The number is a bound by Monte Carlo, on the named split and levels; numbers on other releases of a data
set or other levels are not comparable.
"""
