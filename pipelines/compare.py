"""The job `vdm eval --compare`: which of two checkpoints has the lower bpd, on the same images, times and noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipelines import run_dir
from pipelines.evaluate import overridden
from pipelines.progress import Progress
from pipelines.results import CompareResult
from vdm_lib.config import Config
from vdm_lib.data import Split, load_split
from vdm_lib.errors import ConfigError
from vdm_lib.evaluate import Estimator, check_data, measure, spread_of
from vdm_lib.evaluation.bound import Bound
from vdm_lib.evaluation.measure import make_estimator, make_runner
from vdm_lib.evaluation.passes import OnePass
from vdm_lib.evaluation.time_density import mixture
from vdm_lib.files.checksums import params_digest
from vdm_lib.restore import newest_step, restore_ema
from vdm_lib.sharding import make_mesh

# Two-sided, about one false verdict in twenty.
_ERRORS = 2.0


@dataclass(frozen=True)
class _Checkpoint:
    name: str
    step: int
    config: Config
    digest: str
    estimator: Estimator


@dataclass(frozen=True, eq=False)
class _Difference:
    """The first less the second, image by image under the same draws."""

    first: Estimator
    second: Estimator
    passes: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """What both returned, pass by pass."""

    @property
    def num_images(self) -> int:
        return self.first.num_images

    @property
    def exact(self) -> np.ndarray:
        return self.first.exact - self.second.exact

    def positions(self, pass_index: int) -> np.ndarray | None:
        return self.first.positions(pass_index)

    @property
    def even_by_image(self) -> bool:
        return self.first.even_by_image

    def one_pass(self, pass_index: int) -> OnePass:
        both = self.first.one_pass(pass_index).estimates, self.second.one_pass(pass_index).estimates
        self.passes.append(both)
        return OnePass(both[0] - both[1])


def run(
    first: str, second: str, data: str, *, overrides: Mapping[str, Any] | None = None, split: str = "test"
) -> CompareResult:
    """Measure two checkpoints with common random numbers and say which is better, if it can be told.

    The difference of an image is taken under the same time and noise, so most of what is random cancels. Times come
    from the mean of the densities that suit the two. The verdict is at two errors; the error is that of the
    difference on other test sets, Monte Carlo error included.

    Args:
      first: a run directory, or RUN@STEP for a checkpoint that is not its newest.
      second: the same.
      data: data directory that both were trained on.
      overrides: values of eval.* and model.timesteps, for both; what is not given is as in the first run.
      split: which images.

    Raises:
      CheckpointError: no such run or checkpoint, or one of other data.
      ConfigError: an override of something that was trained, or two bounds of different kinds.
      DataError: data that cannot be read or that a model is not for.
      DivergedError: losses that are not finite.
    """
    images = load_split(data, split)
    at_hand = run_dir.data_metadata(data)["data_fingerprints"]
    a = _prepare(first, images, at_hand, overrides or {}, None)
    b = _prepare(second, images, at_hand, overrides or {}, a.config)
    if a.config.model.timesteps != b.config.model.timesteps:
        raise ConfigError(
            f"{first} has {a.config.model.timesteps} steps and {second} {b.config.model.timesteps}: "
            "give both the same by model.timesteps=..."
        )
    evaluation = a.config.eval
    one, other = a.estimator, b.estimator
    if isinstance(one, Bound) and isinstance(other, Bound):
        density = mixture([one.density, other.density])
        one, other = replace(one, density=density), replace(other, density=density)
    pair = _Difference(one, other)
    most = evaluation.passes if evaluation.target_se is None else max(evaluation.passes, evaluation.max_passes)
    with Progress("compare", total=most, unit="pass") as progress:

        def on_pass(done: int) -> None:
            progress.advance()
            progress.report()

        measured = measure(pair, evaluation, split, on_pass=on_pass)
    errors = spread_of(pair, measured.estimates + pair.exact)
    totals = [np.stack([rows[i] for rows in pair.passes]) + estimator.exact for i, estimator in enumerate((one, other))]
    alone = [spread_of(pair, total).monte_carlo_stderr for total in totals]
    difference = float((measured.estimates + pair.exact).mean())
    error = math.hypot(errors.monte_carlo_stderr, errors.test_set_stderr)
    told = abs(difference) > _ERRORS * error
    return CompareResult(
        first=a.name,
        second=b.name,
        steps=(a.step, b.step),
        bpd=(float(totals[0].mean()), float(totals[1].mean())),
        bpd_stderr=(alone[0], alone[1]),
        difference=difference,
        difference_stderr=errors.monte_carlo_stderr,
        difference_test_set_stderr=errors.test_set_stderr,
        better=None if not told else a.name if difference < 0 else b.name,
        num_images=pair.num_images,
        passes=len(measured.estimates),
        seed=evaluation.seed,
        checkpoint_digests=(a.digest, b.digest),
        data_fingerprint=images.fingerprint,
    )


def _prepare(
    name: str, images: Split, at_hand: dict[str, str], overrides: Mapping[str, Any], like: Config | None
) -> _Checkpoint:
    """Return a checkpoint ready to be measured; `like` gives the way it is measured in."""
    workdir, _, step_text = name.partition("@")
    if step_text and not step_text.isdecimal():
        raise ConfigError(f"a checkpoint is named RUN or RUN@STEP, got {name!r}")
    config = run_dir.read_config(workdir)
    if like is not None:
        config = replace(config, eval=like.eval)
    config = overridden(config, overrides)
    if config.eval.protocol != "every_image" or config.eval.timesteps:
        raise ConfigError("--compare takes every image, and one number of steps by model.timesteps")
    check_data(config, images)
    step = int(step_text) if step_text else newest_step(workdir)
    restored = restore_ema(workdir, config, step, raw=config.eval.params == "raw")
    run_dir.check_same_data(restored.metadata["data_fingerprints"], at_hand)
    runner = make_runner(config, restored.params, images, make_mesh())
    return _Checkpoint(name, step, config, params_digest(restored.params), make_estimator(config, runner))
