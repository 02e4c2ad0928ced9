"""Bits per dimension as google-research/vdm measured it, to compare published numbers like with like.

It goes through the shuffled test set again and again, throws the first batch away (it only served to shape the
network) and averages the next 100 batches: some images count several times, others never. The times of a batch are
spread evenly over that batch, and every image has one time and one noise in each draw. On a pod the original
spreads the times over the batch of one device; here it is the whole batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer, Shaped

from vdm_lib.compiler import compiler_options
from vdm_lib.config import Config, EvalConfig
from vdm_lib.data import Split
from vdm_lib.evaluate import Subject, check_data
from vdm_lib.evaluation.passes import check_finite
from vdm_lib.labels import labels_to_measure
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.model import VDM, Losses
from vdm_lib.report import BpdReport
from vdm_lib.sharding import check_divisible, replicated, split_by_image
from vdm_lib.types import Labels, Params

NUM_BATCHES = 100


def draw_indices(seed: int, num_images: int, batch_size: int) -> Integer[np.ndarray, "batches batch_size"]:
    """Return the images of the 100 batches: draws B to 101 B - 1 of shuffled passes over the whole split."""
    needed = (NUM_BATCHES + 1) * batch_size
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    passes = -(-needed // num_images)
    # Ranks of raw draws: NumPy does not promise that `permutation` stays the same across its versions.
    order = np.concatenate([np.argsort(generator.random(num_images), kind="stable") for _ in range(passes)])
    return order[batch_size:needed].reshape(NUM_BATCHES, batch_size)


def per_batch_bpd(
    config: Config,
    evaluation: EvalConfig,
    params: Params,
    split: Split,
    mesh: Mesh,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Shaped[np.ndarray, "batches 3"]:
    """Return the three terms (recon, latent, diff) of every batch, its mean over images in bits per dimension.

    Raises:
      DataError: images that the model is not for.
      ConfigError: the devices cannot share the batch evenly.
    """
    check_data(config, split)
    check_divisible(evaluation.batch_size, mesh, "eval.batch_size")
    model, labels = VDM.for_evaluation(config), labels_to_measure(config, split.labels)

    def terms(params: Params, images: jax.Array, labels: Labels | None, key: jax.Array) -> Losses:
        conditioning = jnp.zeros(images.shape[0], jnp.int32)
        with jax.default_matmul_precision("float32"):
            noise = model.draw_noise(key, images.shape[0])
            return model.losses(params, images, conditioning, noise, labels=labels)

    whole, by_image = replicated(mesh), split_by_image(mesh)
    compiled = jax.jit(
        terms,
        in_shardings=(whole, by_image, by_image, whole),
        out_shardings=whole,
        compiler_options=compiler_options(mesh),
    )
    result = np.empty((NUM_BATCHES, 3))
    for batch, indices in enumerate(draw_indices(evaluation.seed, len(split.images), evaluation.batch_size)):
        key = jax.random.fold_in(jax.random.key(evaluation.seed), batch)
        losses = compiled(params, split.images[indices], None if labels is None else labels[indices], key)
        nats = np.stack([np.asarray(term, np.float64).mean() for term in losses])
        result[batch] = nats_to_bpd(nats, config.data.num_dims)
        on_batch(batch + 1)
    return result


def summarise_batches(
    terms: Shaped[np.ndarray, "batches 3"], config: Config, evaluation: EvalConfig, subject: Subject, seconds: float
) -> BpdReport:
    """Return the mean over the batches; its error is that of independent batches.

    It covers noise, times and the choice of images. As passes over the split are complete, it is a little too large.

    Raises:
      DivergedError: losses that are not finite, with the first such batches.
    """
    total = terms.sum(axis=-1)
    check_finite(total, f"batches of {subject.split} images")
    recon, latent, diff = terms.mean(axis=0)
    return BpdReport(
        step=subject.step,
        split=subject.split,
        protocol="reference",
        bpd=float(total.mean()),
        bpd_stderr=float(total.std(ddof=1) / np.sqrt(len(total))),
        bpd_between_passes_stderr=None,
        bpd_test_set_stderr=None,
        bpd_recon=float(recon),
        bpd_latent=float(latent),
        bpd_diff=float(diff),
        estimator="bound",
        estimator_settings="",
        num_images=len(total) * evaluation.batch_size,
        passes=1,
        network_calls=len(total) * evaluation.batch_size,
        timesteps=config.model.timesteps,
        schedule=evaluation.schedule,
        labels=evaluation.labels if config.model.num_classes else "",
        time_sampling="uniform",
        time_density=(),
        control_coefficients=(),
        target_stderr=None,
        params=subject.params,
        seed=evaluation.seed,
        dtype="float32",
        matmul_precision="float32",
        data_fingerprint=subject.fingerprint,
        checkpoint_digest=subject.digest,
        code_version=subject.code_version,
        seconds=seconds,
        images_per_s=len(total) * evaluation.batch_size / max(seconds, 1e-9),
        noise_levels=(),
    )
