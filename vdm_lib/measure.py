"""From parameters and images to a report: which estimator a config asks for, its passes, and what they say."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from vdm_lib.bound import make_bound
from vdm_lib.config import Config
from vdm_lib.data import Split
from vdm_lib.evaluate import Estimator, Measurement, Subject, check_data, measure, summarise
from vdm_lib.model import VDM
from vdm_lib.passes import PassStore, Runner
from vdm_lib.report import BpdReport
from vdm_lib.sharding import replicated
from vdm_lib.types import Params


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
    evaluation, model = config.eval, VDM.from_config(config)
    runner = Runner(jax.device_put(params, replicated(mesh)), split, mesh, evaluation.batch_size)
    estimator = make_bound(model, runner, evaluation.seed, evaluation.time_sampling, store)
    measurement = measure(estimator, evaluation, split.name, store=store, on_pass=on_pass)
    report = summarise(estimator, measurement, evaluation, subject, timesteps=model.model.timesteps)
    return Measured(report, estimator, measurement)
