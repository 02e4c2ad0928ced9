"""The training job: one straight loop from a data directory to checkpoints and metrics."""

import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from pipelines import run_dir
from pipelines.progress import Progress
from pipelines.results import TrainResult
from pipelines.stop import stop_on_signal
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.config import Config
from vdm_lib.data import Batches, load_split
from vdm_lib.errors import CheckpointError, ConfigError, DivergedError
from vdm_lib.evaluate import check_data
from vdm_lib.metrics import MetricsWriter, mean_metrics
from vdm_lib.model import count_params
from vdm_lib.sharding import make_mesh, replicated
from vdm_lib.state import TrainState
from vdm_lib.train import init_state, make_train_step


def run(config: Config, data: str, workdir: str, *, allow_other_data: bool = False) -> TrainResult:
    """Train to `config.train.steps`, going on from the newest checkpoint of the run directory.

    SIGTERM or SIGINT saves the state after the step under way and returns with `stopped` set.

    Args:
      config: the experiment.
      data: data directory, local or gs://.
      workdir: run directory.
      allow_other_data: go on with other images than the run began with; its checkpoints then name both.

    Raises:
      DataError: data that cannot be read or that the model is not for.
      ConfigError: the run directory belongs to another config, or the batch does not divide over the devices.
      CheckpointError: a checkpoint cannot be read or written, or is of other data.
      DivergedError: bpd is no longer finite; the checkpoints before that stay.
    """
    started = time.monotonic()
    split = load_split(data, "train")
    check_data(config, split)
    mesh = make_mesh()
    train_step = make_train_step(config, mesh)
    # The record and TensorBoard append to files, which object stores cannot: issue 4's work brings gs:// here.
    if workdir.startswith("gs://"):
        raise ConfigError("train writes its run directory on a local disk: give a local --workdir")
    run_dir.check_config(workdir, config)

    with run_dir.lock(workdir), Checkpoints(workdir, keep=config.train.keep_checkpoints) as checkpoints:
        steps = checkpoints.steps()
        before = checkpoints.metadata(steps[-1]) if steps else None
        metadata = {"config": run_dir.configs.to_json(config)}
        metadata |= run_dir.data_metadata(data, before, allow_other=allow_other_data)
        if steps and steps[-1] > config.train.steps:
            raise ConfigError(f"{workdir} is at step {steps[-1]}, beyond train.steps={config.train.steps}")
        directory = Path(run_dir.open_run(workdir, config))
        state = _newest_state(checkpoints, config, mesh)
        num_params = count_params(state.params)
        first = int(state.step)
        batches = Batches(len(split.images), config.train.batch_size, config.train.seed)
        last_row: dict[str, float] = {}
        pending: list[dict[str, Any]] = []
        interval_started = time.monotonic()
        with (
            stop_on_signal() as stop,
            MetricsWriter(directory, from_step=first) as writer,
            Progress(f"train {config.name}", total=config.train.steps, unit="step", done=first) as progress,
        ):
            if first < config.train.steps:
                progress.say(f"{num_params:,} parameters; the first step compiles, which can take minutes")
            for step in range(first, config.train.steps):
                state, metrics = train_step(state, split.images[batches.indices_at(step)])
                pending.append(metrics)
                done = step + 1
                progress.advance()
                last = done == config.train.steps or stop.requested
                saving = done % config.train.checkpoint_every == 0 or last
                if done % config.train.log_every == 0 or saving:
                    rows = [{key: float(value) for key, value in row.items()} for row in jax.device_get(pending)]
                    _stop_if_diverged(rows, done, directory)
                    seconds = time.monotonic() - interval_started
                    last_row = mean_metrics(rows) | {"steps_per_s": len(rows) / seconds}
                    writer.write(done, last_row)
                    progress.report(f"training bpd {last_row['bpd']:.3f}", f"{last_row['steps_per_s']:.3g} steps/s")
                    pending = []
                    if saving:
                        checkpoints.save(state, metadata)
                    interval_started = time.monotonic()
                if last:
                    break
        checkpoints.wait()
    return TrainResult(
        workdir=workdir,
        step=int(state.step),
        stopped=stop.requested and int(state.step) < config.train.steps,
        bpd=last_row.get("bpd"),
        num_params=num_params,
        steps_per_s=last_row.get("steps_per_s"),
        seconds=time.monotonic() - started,
    )


def _newest_state(checkpoints: Checkpoints, config: Config, mesh: Mesh) -> TrainState:
    """Return the state of the newest checkpoint that is whole, or that before the first update if there is none.

    Raises:
      CheckpointError: there are checkpoints, but none can be read.
    """
    steps = checkpoints.steps()
    abstract = jax.eval_shape(lambda: init_state(config, mesh))
    for step in reversed(steps):
        try:
            return checkpoints.restore(step, abstract, replicated(mesh))
        except CheckpointError as error:
            if step == steps[0]:
                raise
            place = checkpoints.set_aside(step)
            tqdm.write(f"{error}. It was moved to {place}; going on from the one before", file=sys.stderr)
    return init_state(config, mesh)


def _stop_if_diverged(rows: list[dict[str, float]], done: int, directory: Path) -> None:
    """Raise DivergedError naming the first step of the interval, ending at `done`, that is not finite."""
    for step, row in enumerate(rows, start=done - len(rows) + 1):
        if not all(np.isfinite(value) for value in row.values()):
            wrong = next(key for key, value in row.items() if not np.isfinite(value))
            raise DivergedError(
                f"step {step}: {wrong} is {row[wrong]}; checkpoints written before it are kept in "
                f"{directory / 'checkpoints'}. Lower optim.learning_rate or set optim.gradient_clip_norm=1"
            )
