"""The flow vdm-train: a config to checkpoints, on this machine or elsewhere; going on from what is there."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.states import Completed

import configs
from flows import run_view
from flows.follow import following
from flows.job import run_job, stop_leftovers, vdm
from flows.links import link_to
from flows.parameters import Experiment, Overrides, check_training, data_dir, slug, words, work_dir


@flow(name="vdm-train", on_cancellation=[stop_leftovers], on_crashed=[stop_leftovers])
def vdm_train(
    experiment: Experiment = "digits",
    overrides: Overrides | None = None,
    data: str | None = None,
    workdir: str | None = None,
) -> Any:
    """Train a config, going on from the newest checkpoint of its run directory.

    Args:
      experiment: Named config to start from.
      overrides: Values of the config to replace, by dotted key, such as {"model.n_embd": 64, "train.steps": 1000}.
      data: Data directory made by vdm-preprocess; default data/NAME of the config's data set.
      workdir: Run directory; default runs/EXPERIMENT.
    """
    config = configs.load(experiment, overrides)
    data, workdir = data_dir(data, config), work_dir(workdir, experiment)
    check_training(config, data, workdir)
    done = run_view.checkpoint_steps(workdir)
    if done and done[-1] >= config.train.steps:
        return Completed(name="Skipped", message=f"{workdir} is at step {done[-1]} already")
    publish_links(workdir)
    job = vdm("train", experiment, *words(overrides), "--data", data, "--workdir", workdir, workdir=workdir)
    with following(workdir, data, config.train.steps):
        result = run_job(f"train {experiment}", job)
    get_run_logger().info("trained to step %d at %.1f steps/s", result["step"], result["steps_per_s"] or 0)
    return Completed(message=f"{workdir} is at step {result['step']}")


def publish_links(workdir: str) -> None:
    """Publish where the run directory and its TensorBoard files are."""
    create_link_artifact(
        link_to(workdir), link_text=workdir, key=f"workdir-{slug(workdir)}", description="run directory"
    )
    board = f"{workdir}/tensorboard"
    create_link_artifact(
        link_to(board),
        link_text=board,
        key=f"tensorboard-{slug(workdir)}",
        description=f"`tensorboard --logdir {board}` shows the curves",
    )
