"""Bits per dimension of a split as a measurement: passes over every image until there are enough, and what they say."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped

from vdm_lib.config import Config, EvalConfig
from vdm_lib.data import Split
from vdm_lib.errors import DataError
from vdm_lib.evaluation.bound import Bound
from vdm_lib.evaluation.bound_variance import bound_variance
from vdm_lib.evaluation.level_control import LevelControl
from vdm_lib.evaluation.linear_control import ImageControl, LinearControl
from vdm_lib.evaluation.monte_carlo import Spread, between_passes_stderr, spread
from vdm_lib.evaluation.noise_levels import noise_levels
from vdm_lib.evaluation.passes import NoStore, OnePass, PassStore, check_finite
from vdm_lib.report import BpdReport


@runtime_checkable
class Estimator(Protocol):
    """What is estimated of every image, pass by pass, in bits per dimension."""

    @property
    def num_images(self) -> int:
        """Images of one pass."""
        ...

    @property
    def exact(self) -> Float[np.ndarray, " n"]:
        """The part of each image that is not estimated."""
        ...

    def positions(self, pass_index: int) -> Float[np.ndarray, " n"] | None:
        """Return where each image stands in the systematic sample of a pass, None if passes are independent draws."""
        ...

    @property
    def even_by_image(self) -> bool:
        """Whether the positions of each image are spread evenly over the passes."""
        ...

    def one_pass(self, pass_index: int) -> OnePass:
        """Return an unbiased estimate of the rest for every image; a function of the seed and the pass."""
        ...


@dataclass(frozen=True)
class Subject:
    """What was measured, and by what: facts that no number tells."""

    step: int
    split: str
    fingerprint: str
    params: str
    digest: str
    code_version: str


@dataclass(frozen=True)
class Measurement:
    """The estimates of all passes and the time they took."""

    estimates: Float[np.ndarray, "passes n"]
    """What `Estimator.one_pass` returned."""
    seconds: float
    losses: Float[np.ndarray, "passes n"] | None = None
    """The diffusion losses that were drawn; None if there are none."""


def check_data(config: Config, split: Split) -> None:
    """Raise DataError if the images of a split are not what an experiment is for."""
    shape = tuple(split.images.shape[1:])
    if shape != config.data.image_shape:
        raise DataError(
            f"{config.name} is for images of shape {config.data.image_shape}, the data has {shape}: "
            f'prepare other data or set "data.image_shape={list(shape)}"'
        )
    if split.num_levels != config.data.num_levels:
        raise DataError(
            f"{config.name} is for {config.data.num_levels} levels a channel, the data has {split.num_levels}: "
            f"prepare other data or set data.num_levels={split.num_levels}"
        )
    num_classes, largest = config.model.num_classes, int(split.labels.max(initial=0))
    if num_classes and largest >= num_classes:
        raise DataError(
            f"{config.name} is for {num_classes} classes, the {split.name} data has label {largest}: "
            f"prepare other data or set model.num_classes={largest + 1}"
        )


def measure(
    estimator: Estimator,
    evaluation: EvalConfig,
    split_name: str,
    *,
    store: PassStore | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> Measurement:
    """Make passes until there are `passes` of them and, if a target was set, until the error is below it.

    Args:
      estimator: what to estimate.
      evaluation: how many passes, or which error and at most how many.
      split_name: for messages.
      store: where each pass is kept; a pass that is there already is not made again.
      on_pass: called after each pass with their number so far.

    Raises:
      DivergedError: a pass with losses that are not finite, with their count and the first such images.
    """
    store = store or NoStore()
    rows: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    seconds = 0.0
    while not _enough(estimator, evaluation, rows):
        name = f"pass-{len(rows):06d}"
        kept = store.read(name)
        if kept is None:
            started = time.perf_counter()
            made = estimator.one_pass(len(rows))
            check_finite(made.estimates, f"{split_name} images")
            kept = {"estimates": made.estimates, "seconds": np.asarray(time.perf_counter() - started)}
            kept |= {} if made.losses is None else {"losses": made.losses}
            store.write(name, kept)
        rows.append(kept["estimates"])
        losses += [kept["losses"]] if "losses" in kept else []
        seconds += float(kept["seconds"])
        on_pass(len(rows))
    return Measurement(np.stack(rows), seconds, np.stack(losses) if losses else None)


def _enough(estimator: Estimator, evaluation: EvalConfig, rows: list[np.ndarray]) -> bool:
    if len(rows) < evaluation.passes:
        return False
    if evaluation.target_se is None or len(rows) >= max(evaluation.max_passes, evaluation.passes):
        return True
    total = np.stack(rows) + estimator.exact
    return spread_of(estimator, total).monte_carlo_stderr <= evaluation.target_se


def spread_of(estimator: Estimator, total: Shaped[np.ndarray, "passes n"]) -> Spread:
    """Return where the differences between estimates come from, under the positions that the estimator drew."""
    rows = [estimator.positions(k) for k in range(len(total))]
    positions = None if rows[0] is None else np.stack([row for row in rows if row is not None])
    return spread(total, positions, even_by_image=estimator.even_by_image)


def summarise(
    estimator: Estimator,
    measured: Measurement,
    evaluation: EvalConfig,
    subject: Subject,
    *,
    estimator_settings: str = "",
    calls_per_estimate: int | None = 1,
    timesteps: int = 0,
    labels: str = "",
) -> BpdReport:
    """Return the mean over images and passes with its errors.

    Args:
      estimator: what was estimated.
      measured: its passes.
      evaluation: how.
      subject: of which checkpoint and images.
      estimator_settings: what else the estimator depends on.
      calls_per_estimate: evaluations of the network for one image in one pass, None if not known.
      timesteps: steps T of the bound, 0 for continuous time.
      labels: what a class-conditional model was told, empty for others.
    """
    total: Shaped[np.ndarray, "passes n"] = measured.estimates + estimator.exact
    passes, num_images = total.shape
    errors = spread_of(estimator, total)
    bound = estimator if isinstance(estimator, Bound) else None
    images, seconds = total.size, measured.seconds
    if bound is not None:
        images, seconds = images + bound.pilot_calls, seconds + bound.pilot_seconds
    spread_of_one = None
    if bound is not None and measured.losses is not None:
        spread_of_one = bound_variance(bound, measured.losses, float(total.mean()))
    return BpdReport(
        step=subject.step,
        split=subject.split,
        bpd=float(total.mean()),
        bpd_stderr=errors.monte_carlo_stderr,
        bpd_between_passes_stderr=between_passes_stderr(total),
        bpd_test_set_stderr=errors.test_set_stderr,
        bpd_recon=None if bound is None else float(bound.recon.mean()),
        bpd_latent=None if bound is None else float(bound.latent.mean()),
        bpd_diff=None if bound is None else float(measured.estimates.mean()),
        var_bpd=None if spread_of_one is None else spread_of_one.variance,
        var_bpd_stderr=None if spread_of_one is None else spread_of_one.stderr,
        var_bpd_by_time=() if spread_of_one is None else spread_of_one.by_time,
        protocol=evaluation.protocol,
        estimator=evaluation.estimator,
        estimator_settings=estimator_settings,
        num_images=num_images,
        passes=passes,
        network_calls=None if calls_per_estimate is None else images * calls_per_estimate,
        timesteps=timesteps,
        schedule=evaluation.schedule,
        labels=labels,
        time_sampling="none" if bound is None else "importance" if bound.density.knots else "uniform",
        time_density=() if bound is None else bound.density.knots,
        control_coefficients=() if bound is None else bound.coefficient_knots(LinearControl),
        image_control_coefficients=() if bound is None else bound.coefficient_knots(ImageControl),
        level_control_coefficients=() if bound is None else bound.coefficient_knots(LevelControl),
        target_stderr=evaluation.target_se,
        params=subject.params,
        seed=evaluation.seed,
        dtype="float32",
        matmul_precision="float32",
        data_fingerprint=subject.fingerprint,
        checkpoint_digest=subject.digest,
        code_version=subject.code_version,
        seconds=seconds,
        images_per_s=images / max(seconds, 1e-9),
        noise_levels=() if bound is None else noise_levels(bound, measured.estimates),
    )
