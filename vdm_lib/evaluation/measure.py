"""From parameters and images to a report: which estimator a config asks for, its passes, and what they say."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from vdm_lib.config import Config, EvalConfig
from vdm_lib.data import Split
from vdm_lib.errors import ConfigError
from vdm_lib.evaluate import Estimator, Measurement, Subject, check_data, measure, summarise
from vdm_lib.evaluation.bound import make_bound
from vdm_lib.evaluation.draws import Draws
from vdm_lib.evaluation.importance_weighted import ImportanceWeighted
from vdm_lib.evaluation.ode import CALLS_PER_STEP, OdeLikelihood
from vdm_lib.evaluation.passes import PassStore, Runner
from vdm_lib.labels import labels_to_measure
from vdm_lib.model import VDM
from vdm_lib.report import BpdReport
from vdm_lib.sharding import replicated
from vdm_lib.types import Params

# Of one layer's activations; a core's second-level cache holds 1 to 2 MiB. Measured: benchmarks/evaluate.py.
_CACHE_BYTES = 2 * 2**20


@dataclass(frozen=True, eq=False)
class Measured:
    """A report and what it was made of."""

    report: BpdReport
    estimator: Estimator
    measurement: Measurement


def measure_split(
    config: Config,
    params: Params,
    split: Split,
    mesh: Mesh,
    subject: Subject,
    *,
    store: PassStore | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Return the bits per dimension of every image of a split, as `config.eval` says.

    Args:
      config: the experiment.
      params: its parameters, on the host or on the devices of the mesh.
      split: the images.
      mesh: the devices.
      subject: what the report says about checkpoint and images.
      store: where passes are kept.
      on_pass: called after each pass with their number so far.

    Raises:
      DataError: images that the model is not for.
      DivergedError: losses that are not finite, with their count and the first such images.
    """
    check_data(config, split)
    evaluation, model = config.eval, VDM.for_evaluation(config)
    runner = make_runner(config, params, split, mesh)
    estimator = make_estimator(config, runner, store)
    measurement = measure(estimator, evaluation, split.name, store=store, on_pass=on_pass)
    report = summarise(
        estimator,
        measurement,
        evaluation,
        subject,
        estimator_settings=_settings(evaluation),
        calls_per_estimate=_calls(config),
        timesteps=0 if evaluation.estimator == "ode" else model.model.timesteps,
        labels=evaluation.labels if config.model.num_classes else "",
    )
    return Measured(report, estimator, measurement)


def make_runner(config: Config, params: Params, split: Split, mesh: Mesh) -> Runner:
    """Return what applies estimates to a split, in batches of `config.eval.batch_size`.

    On a CPU as many images go through the network together as its cache holds the activations of; an accelerator wants
    the whole batch.

    Raises:
      ConfigError: eval.labels=none of a model that cannot do without labels.
    """
    height, width, _ = config.data.image_shape
    bytes_per_image = 4 * height * width * config.model.n_embd
    at_once = max(1, _CACHE_BYTES // bytes_per_image) if jax.default_backend() == "cpu" else 0
    labels = labels_to_measure(config, split.labels)
    return Runner(jax.device_put(params, replicated(mesh)), split, mesh, config.eval.batch_size, at_once, labels)


def make_estimator(config: Config, runner: Runner, store: PassStore | None = None) -> Estimator:
    """Return the estimator that `config.eval` asks for.

    Raises:
      ConfigError: the importance-weighted bound in continuous time.
      DivergedError: losses of the pilot that are not finite.
    """
    model, evaluation = VDM.for_evaluation(config), config.eval
    match evaluation.estimator:
        case "bound":
            how = evaluation.time_sampling, evaluation.control_variate
            return make_bound(model, runner, evaluation.seed, *how, store)
        case "importance_weighted":
            if not model.model.timesteps:
                raise ConfigError("the importance-weighted bound is of a chain of steps: give eval.timesteps=[100]")
            estimate = ImportanceWeighted(model, evaluation.samples)
        case "ode":
            estimate = OdeLikelihood(
                model=model,
                steps=evaluation.ode_steps,
                tolerance=evaluation.ode_tolerance,
                trace=evaluation.ode_trace,
                dequantisation=evaluation.dequantisation,
                samples=evaluation.samples,
            )
    return Draws(estimate, runner, evaluation.seed, model.data.num_dims)


def _settings(evaluation: EvalConfig) -> str:
    samples = f"{evaluation.samples} sample{'s' if evaluation.samples > 1 else ''}"
    match evaluation.estimator:
        case "bound":
            return ""
        case "importance_weighted":
            return samples
        case "ode":
            fixed = evaluation.ode_steps
            steps = f"{fixed} steps" if fixed else f"adaptive steps to {evaluation.ode_tolerance:g}"
            return f"{steps}, {evaluation.ode_trace} trace, {evaluation.dequantisation} dequantisation, {samples}"


def _calls(config: Config) -> int | None:
    """Return how often one estimate evaluates the network, None if a solver decides."""
    match config.eval.estimator:
        case "bound":
            return 1
        case "importance_weighted":
            return config.model.timesteps * config.eval.samples
        case "ode":
            steps = config.eval.ode_steps
            return config.eval.samples * (CALLS_PER_STEP * steps + 1) if steps else None
