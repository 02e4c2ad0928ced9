"""What comes before the first step: data that fits, processes that agree, a directory of one's own, a state."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from pipelines import run_dir
from pipelines.lock import lock
from vdm_lib.checkpoints import Checkpoints, Keep
from vdm_lib.config import Config
from vdm_lib.data import Split, load_split
from vdm_lib.errors import CheckpointError, ConfigError, NewerCheckpointError
from vdm_lib.evaluate import check_data
from vdm_lib.hosts import check_same, is_first, together
from vdm_lib.sharding import check_divisible
from vdm_lib.state import TrainState
from vdm_lib.train import abstract_state, as_trained, init_state


def load(config: Config, data: str, workdir: str, mesh: Mesh) -> Split:
    """Return the training images; nothing is written.

    Raises:
      DataError: data that cannot be read or that the model is not for.
      ConfigError: the run directory belongs to another config.
      MachineError: the batch does not divide over the devices, or processes that do not agree.
    """

    def load_here() -> Split:
        check_divisible(config.train.batch_size, mesh, "train.batch_size", config.train.microbatches)
        run_dir.check_config(workdir, config)
        split = load_split(data, "train")
        check_data(config, split)
        return split

    split = together(load_here)
    check_same(
        {
            "config": run_dir.configs.to_json(config),
            "data fingerprint": split.fingerprint,
            "workdir": workdir,
            "code version": run_dir.code_digest(),
        }
    )
    return split


@contextmanager
def hold(workdir: str, config: Config) -> Iterator[Checkpoints]:
    """Hold the run directory for this run and yield its checkpoints.

    Raises:
      CheckpointError: another run trains in it.
    """
    held = lock(workdir)
    # The other processes of this run share what the first one holds.
    together(lambda: held.__enter__() if is_first() else None)
    keep = Keep(
        newest=config.train.keep_checkpoints,
        every=config.train.keep_every,
        best=lambda: run_dir.best_step(workdir) if config.train.keep_best else None,
    )
    try:
        with Checkpoints(workdir, keep=keep) as checkpoints:
            yield checkpoints
    finally:
        if is_first():
            held.__exit__(None, None, None)


def open_run(
    workdir: str, config: Config, data: str, checkpoints: Checkpoints, mesh: Mesh, *, allow_other_data: bool
) -> dict[str, Any]:
    """Write what the run is, and return what is saved beside the arrays of each checkpoint.

    Raises:
      CheckpointError: the run was trained on other data; a checkpoint of another model, or one that cannot be read.
      ConfigError: the run is beyond train.steps.
    """
    steps = checkpoints.steps()
    before = _newest_metadata(checkpoints)
    run_dir.check_model(before, config, workdir)
    provenance = run_dir.provenance() | {
        "device_kind": mesh.devices.flat[0].device_kind,
        "num_devices": mesh.size,
        "num_processes": jax.process_count(),
    }
    metadata = {"config": run_dir.configs.to_json(config), "provenance": provenance}
    metadata |= run_dir.data_metadata(data, before, allow_other=allow_other_data)
    if steps and steps[-1] > config.train.steps:
        raise ConfigError(f"{workdir} is at step {steps[-1]}, beyond train.steps={config.train.steps}")
    together(lambda: run_dir.open_run(workdir, config, provenance) if is_first() else None)
    return metadata


def _newest_metadata(checkpoints: Checkpoints) -> dict[str, Any] | None:
    """Return the newest metadata that can be read; `newest_state` sets aside what cannot. None without checkpoints."""
    steps = checkpoints.steps()
    for step in reversed(steps):
        try:
            return checkpoints.metadata(step)
        except NewerCheckpointError:
            raise
        except CheckpointError:
            if step == steps[0]:
                raise
    return None


def newest_state(checkpoints: Checkpoints, config: Config, mesh: Mesh) -> TrainState:
    """Return the newest checkpoint that is whole, or the state before the first update, in the form that is trained.

    Raises:
      NewerCheckpointError: the newest was written by a newer version of this project.
      CheckpointError: there are checkpoints, but none can be read.
    """
    steps = checkpoints.steps()
    abstract = abstract_state(config, mesh)
    for step in reversed(steps):
        try:
            return as_trained(together(lambda step=step: checkpoints.restore(step, abstract)), config, mesh)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            if step == steps[0]:
                raise
            place = checkpoints.set_aside(step)
            if is_first():
                tqdm.write(f"{error}. It was moved to {place}; going on from the one before", file=sys.stderr)
    return as_trained(init_state(config, mesh), config, mesh)
