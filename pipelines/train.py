"""The training job: one straight loop from a data directory to checkpoints and metrics."""

import time
from contextlib import closing
from typing import Any

from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from pipelines.freed_memory import return_freed_memory
from pipelines.memory import out_of_memory_explained
from pipelines.progress import Progress
from pipelines.results import TrainResult
from pipelines.stop import Wish, Wishes, stop_on_signal
from pipelines.tables import columns, parameter_rows
from pipelines.training import begin
from pipelines.training.cluster import Cluster, joined
from pipelines.training.memory import advice, check_fits
from pipelines.training.pictures import Pictures
from pipelines.training.profiler import Profiler
from pipelines.training.program import compile_step
from pipelines.training.record import Record
from pipelines.training.watch import Watch, summary
from vdm_lib.batches import Batches
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.config import Config
from vdm_lib.feed import Feed, make_feed
from vdm_lib.files.storage import storage_errors
from vdm_lib.health import Health
from vdm_lib.hosts import is_first
from vdm_lib.model import count_params
from vdm_lib.sharding import make_mesh
from vdm_lib.state import TrainState
from vdm_lib.train import abstract_state, as_stored


def run(
    config: Config,
    data: str,
    workdir: str,
    *,
    allow_other_data: bool = False,
    profile_steps: int = 0,
    cluster: Cluster | None = None,
) -> TrainResult:
    """Train to `config.train.steps`, going on from the newest checkpoint of the run directory.

    SIGTERM or SIGINT to any process saves the state after the same step on all and returns with `stopped` set.

    Args:
      config: the experiment.
      data: data directory, local or gs://.
      workdir: run directory, local or gs://; with several processes the same for all.
      allow_other_data: go on with other images than the run began with; its checkpoints then name both.
      profile_steps: trace so many steps into `workdir`/profile.
      cluster: which process of how many this is; None: whatever the machine says.

    Raises:
      DataError: data that cannot be read or that the model is not for; an object store that refuses.
      ConfigError: the run directory belongs to another config or is beyond train.steps.
      MachineError: the batch does not divide over the devices, too little memory, or processes that do not agree.
      CheckpointError: a checkpoint cannot be read or written, or is of other data; a run directory in use.
      DivergedError: bpd is not finite or far too large; the checkpoints before that stay.
    """
    started = time.monotonic()
    with joined(cluster or Cluster()), stop_on_signal() as stop, storage_errors(workdir):
        mesh = make_mesh()
        split = begin.load(config, data, workdir, mesh)
        out_of_memory = out_of_memory_explained(mesh, lambda: advice(config, mesh))
        with begin.hold(workdir, config) as checkpoints, out_of_memory:
            metadata = begin.open_run(workdir, config, data, checkpoints, mesh, allow_other_data=allow_other_data)
            state = begin.newest_state(checkpoints, config, mesh)
            batches = Batches(len(split.images), config.train.batch_size, config.train.seed)
            labels = split.labels if config.model.num_classes else None
            feed = make_feed(split.images, batches, mesh, config.train.data_place, labels)
            wishes = Wishes(mesh, stop, 60.0 * config.train.checkpoint_minutes)
            # From here on the images are the feed's: on the devices, or still here.
            del split
            step, row = _loop(config, workdir, state, feed, checkpoints, metadata, wishes, mesh, profile_steps)
    return TrainResult(
        workdir=workdir,
        step=step,
        stopped=step < config.train.steps,
        bpd=row.get("bpd"),
        num_params=count_params(abstract_state(config, mesh).params),
        steps_per_s=row.get("steps_per_s"),
        seconds=time.monotonic() - started,
    )


def _loop(
    config: Config,
    workdir: str,
    state: TrainState,
    feed: Feed,
    checkpoints: Checkpoints,
    metadata: dict[str, Any],
    wishes: Wishes,
    mesh: Mesh,
    profile_steps: int,
) -> tuple[int, dict[str, float]]:
    """Train from a state to the last step or a stop, and return the step and the last row of the record."""
    train, first = config.train, int(state.step)
    row: dict[str, float] = {}
    if first == train.steps:
        return first, row
    with (
        Progress(f"train {config.name}", total=train.steps, unit="step", done=first, silent=not is_first()) as progress,
        Record(workdir, from_step=first) as record,
        Profiler(workdir, profile_steps, first) as profiler,
        closing(feed),
    ):
        if first:
            progress.say(f"going on from step {first} of {workdir}")
        progress.say(*_parameters(config, mesh), "compiling the training step, which can take minutes")
        program = compile_step(config, mesh, feed, wishes.array())
        check_fits(program, config, mesh)
        progress.say(program.cost())
        health = Health(train.on_nan, train.max_skipped_steps, record.skipped)
        watch = Watch(config, mesh, program.flops, health, first)
        pictures = Pictures(config, mesh)
        progress.begin()
        for step in range(first, train.steps):
            profiler.before(step)
            state, metrics, heard = program.step(state, feed.inputs(step), wishes.array())
            watch.add(metrics)
            profiler.after(step, metrics)
            wish = wishes.granted(heard)
            done = step + 1
            last = done == train.steps or wish is Wish.STOP
            saving = last or wish is Wish.SAVE or done % train.checkpoint_every == 0
            progress.advance()
            if saving or done % train.log_every == 0:
                row = watch.row()
                record.write(done, row)
                progress.report(*summary(row))
            if saving:
                checkpoints.save(as_stored(state, config, mesh), metadata)
                # What it leaves in the heap can move the blocks of the steps that follow.
                return_freed_memory()
                wishes.saved()
                # Not at those that the clock asks for: where steps take seconds, pictures take minutes.
                draw = train.sample_images and done % train.checkpoint_every == 0 and wish is not Wish.STOP
                record.show(done, pictures.draw(state) if draw else {})
                watch.restart_clock()
            if last:
                break
        checkpoints.wait()
    return int(state.step), row


def _parameters(config: Config, mesh: Mesh) -> list[str]:
    stored = abstract_state(config, mesh).params
    sizes = {"/".join(path): leaf.size for path, leaf in flatten_dict(stored).items()}
    return columns(parameter_rows(sizes), right=(2, 3)).splitlines()
