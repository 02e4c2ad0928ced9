"""Bits per dimension of a split as a measurement: every image, several times, with its errors.

The time of image i in pass k is (u_k + pi_k(i) / n) mod 1 with one offset u_k and one permutation pi_k per pass: a
systematic sample over the whole split. Times and noise are functions of (seed, i, k) and n alone, so neither the
batch size nor the number of devices changes the result beyond float32 rounding.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Shaped

from vdm_lib.config import Config, EvalConfig
from vdm_lib.data import Split
from vdm_lib.errors import DataError, DivergedError
from vdm_lib.likelihood import nats_to_bpd
from vdm_lib.model import VDM, Losses, Noise
from vdm_lib.report import BpdReport
from vdm_lib.sharding import replicated, split_by_image
from vdm_lib.types import Params

TERMS = ("bpd_recon", "bpd_latent", "bpd_diff")


def pass_times(seed: int, pass_index: int, num_images: int) -> Float[np.ndarray, " n"]:
    """Return the times of one pass, float32 in [0, 1): each of n equal strata is hit by exactly one image."""
    generator = np.random.Generator(np.random.Philox(key=[seed, pass_index]))
    offset = generator.random()
    # Ranks of raw draws: NumPy does not promise that `permutation` stays the same across its versions.
    ranks = np.argsort(np.argsort(generator.random(num_images), kind="stable"), kind="stable")
    times = np.mod(offset + ranks / num_images, 1.0).astype(np.float32)
    # Rounding to float32 may reach 1.0, which is outside the range.
    return np.minimum(times, np.float32(1.0) - np.finfo(np.float32).epsneg)


def check_data(config: Config, split: Split) -> None:
    """Raise DataError if the images of a split are not what the model is for."""
    shape = tuple(split.images.shape[1:])
    if shape != config.data.image_shape:
        raise DataError(f"{config.name} is for images of shape {config.data.image_shape}, the data has {shape}")
    if split.num_levels != config.data.num_levels:
        raise DataError(
            f"{config.name} is for {config.data.num_levels} levels a channel, the data has {split.num_levels}: "
            f"prepare other data or set data.num_levels={split.num_levels}"
        )


def per_image_bpd(
    config: Config,
    evaluation: EvalConfig,
    params: Params,
    split: Split,
    mesh: Mesh,
    on_pass: Callable[[int], None] = lambda _: None,
) -> Shaped[np.ndarray, "passes n 3"]:
    """Return the three terms (recon, latent, diff) of every image in every pass, in bits per dimension, float64.

    Raises:
      DataError: images that the model is not for.
    """
    check_data(config, split)
    model = VDM.from_config(config)
    num_images = len(split.images)
    # Padded up to whole batches that the devices can share; the padding is cut off again below.
    batch_size = min(evaluation.batch_size, num_images)
    batch_size += -batch_size % mesh.size

    def terms(params: Params, images: jax.Array, indices: jax.Array, t: jax.Array, pass_key: jax.Array) -> Losses:
        def normals(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            key_0, key_eps = jax.random.split(jax.random.fold_in(pass_key, index))
            shape = config.data.image_shape
            return jax.random.normal(key_0, shape), jax.random.normal(key_eps, shape)

        eps_0, eps = jax.vmap(normals)(indices)
        conditioning = jnp.zeros(images.shape[0], jnp.int32)
        with jax.default_matmul_precision("float32"):
            return model.losses(params, images, conditioning, Noise(eps_0=eps_0, t=t, eps=eps))

    whole, by_image = replicated(mesh), split_by_image(mesh)
    compiled = jax.jit(terms, in_shardings=(whole, by_image, by_image, by_image, whole), out_shardings=whole)
    result = np.empty((evaluation.passes, num_images, len(TERMS)))
    for k in range(evaluation.passes):
        pass_key = jax.random.fold_in(jax.random.key(evaluation.seed), k)
        times = pass_times(evaluation.seed, k, num_images)
        for indices, count in _padded_batches(num_images, batch_size):
            losses = compiled(params, split.images[indices], indices, times[indices], pass_key)
            nats = np.stack([np.asarray(term, np.float64) for term in losses], axis=-1)
            result[k, indices[:count]] = nats_to_bpd(nats[:count], config.data.num_dims)
        on_pass(k + 1)
    return result


def monte_carlo_variance(total: Shaped[np.ndarray, "passes n"], times: Float[np.ndarray, "passes n"]) -> float:
    """Return the variance of the mean over all estimates, given the images.

    An estimate is a trend over time plus an effect of its image plus a rest. The times of a pass are a systematic
    sample and every image counts equally, so the effects average out and the trend does but for the offset of its
    grid, which moves the mean of a pass by (u - 1/2) (trend(1) - trend(0)) / n with u uniform. The rest makes the
    error: its variance, from n (K - 1) degrees of freedom, divided by the n K estimates. The trend is a line through
    the means of up to 64 groups of neighbours in time; trend and effects are fitted in turns.

    Args:
      total: bits per dimension of every image in every pass.
      times: the time of each estimate.
    """
    passes, num_images = total.shape
    order = np.argsort(times, axis=None)
    groups = np.array_split(order, max(1, min(64, total.size // 16)))
    centres = np.array([times.reshape(-1)[group].mean() for group in groups])
    rest, effects, means = total, np.zeros(num_images), np.zeros(len(groups))
    for _ in range(10):
        without_effects = (total - effects).reshape(-1)
        means = np.array([without_effects[group].mean() for group in groups])
        rest = total - np.interp(times, centres, means)
        effects = rest.mean(axis=0)
    rest = rest - effects
    of_rest = np.square(rest).sum() / (num_images * (passes - 1)) / total.size
    of_offset = ((means[-1] - means[0]) / num_images) ** 2 / 12.0 / passes
    return float(of_rest + of_offset)


def check_finite(bpd: Shaped[np.ndarray, " n"], step: int, what: str) -> None:
    """Raise DivergedError with the first indices at which bpd is not finite."""
    bad = np.flatnonzero(~np.isfinite(bpd))
    if bad.size:
        shown = ", ".join(str(index) for index in bad[:5])
        raise DivergedError(f"step {step}: {bad.size} of {len(bpd)} {what} have no finite bpd: {shown}")


def _padded_batches(num_images: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (indices of one batch, how many of them count); the last batch is filled up with its last image."""
    for start in range(0, num_images, batch_size):
        indices = np.arange(start, start + batch_size)
        yield np.minimum(indices, num_images - 1), min(batch_size, num_images - start)


def summarise(
    terms: Shaped[np.ndarray, "passes n 3"], config: Config, evaluation: EvalConfig, split: Split, step: int
) -> BpdReport:
    """Return the mean over images and passes with its errors.

    `bpd_stderr` is the Monte Carlo error of the mean, see `monte_carlo_variance`; `bpd_test_set_stderr` is how much
    the number would vary over other test sets.

    Raises:
      DivergedError: losses that are not finite, with the indices of the first such images.
    """
    total = terms.sum(axis=-1)
    check_finite(total.sum(axis=0), step, f"{split.name} images")
    passes, num_images = total.shape
    recon, latent, diff = terms.mean(axis=(0, 1))
    times = np.stack([pass_times(evaluation.seed, k, num_images) for k in range(passes)])
    return BpdReport(
        step=step,
        split=split.name,
        protocol="every_image",
        bpd=float(total.mean()),
        bpd_stderr=float(np.sqrt(monte_carlo_variance(total, times))),
        bpd_between_passes_stderr=float(total.mean(axis=1).std(ddof=1) / np.sqrt(passes)),
        bpd_test_set_stderr=float(total.mean(axis=0).std(ddof=1) / np.sqrt(num_images)) if num_images > 1 else 0.0,
        bpd_recon=float(recon),
        bpd_latent=float(latent),
        bpd_diff=float(diff),
        num_images=num_images,
        passes=passes,
        timesteps=config.model.timesteps,
        params="ema",
        seed=evaluation.seed,
        matmul_precision="float32",
        data_fingerprint=split.fingerprint,
    )
