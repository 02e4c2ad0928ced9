"""The flow vdm-train: a config to checkpoints, on this machine or elsewhere; going on from what is there."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.states import Completed

import configs
from flows import run_view
from flows.follow import following
from flows.job import run_job, vdm
from flows.links import link_to
from flows.one_at_a_time import refuse_second_training
from flows.parameters import Experiment, Overrides, check_training, data_dir, slug, words, work_dir
from flows.places import Kind, SshPlace, TpuSlice, check_place, stop_leftovers, training


@flow(name="vdm-train", on_cancellation=[stop_leftovers], on_crashed=[stop_leftovers])
def vdm_train(
    experiment: Experiment = "digits",
    overrides: Overrides | None = None,
    data: str | None = None,
    workdir: str | None = None,
    launcher: Kind = "local",
    tpu: TpuSlice | None = None,
    ssh: SshPlace | None = None,
) -> Any:
    """Train a config, going on from the newest checkpoint of its run directory.

    Args:
      experiment: Named config to start from.
      overrides: Values of the config to replace, by dotted key, such as {"model.n_embd": 64, "train.steps": 1000}.
      data: Data directory made by vdm-preprocess; default data/NAME of the config's data set.
      workdir: Run directory; default runs/EXPERIMENT.
      launcher: Where it runs: local is the worker's machine, ssh hosts of your own, tpu a slice made for the run.
      tpu: The slice for launcher tpu, such as {"accelerator": "v3-8", "zones": "us-central1-a"}.
      ssh: The hosts for launcher ssh, such as {"hosts": ["me@gpu-1"], "python": "/home/me/vdm/bin/python"}.
    """
    config = configs.load(experiment, overrides)
    data, workdir = data_dir(data, config), work_dir(workdir, experiment)
    check_place(launcher, tpu, ssh, config, data, workdir)
    # What lies on the disks of other hosts is checked there.
    if launcher == "local" or data.startswith("gs://"):
        check_training(config, data, workdir)
    refuse_second_training(workdir)
    done = run_view.checkpoint_steps(workdir)
    if done and done[-1] >= config.train.steps:
        return Completed(name="Skipped", message=f"{workdir} is at step {done[-1]} already")
    publish_links(workdir)
    log = get_run_logger()
    if launcher == "tpu" and tpu is not None:
        project = [] if tpu.project is None else [f"--project={tpu.project}"]
        run_job("delete slices that are left over", vdm("tpu", "reap", *project))
    given = [experiment, *words(overrides), "--data", data, "--workdir", workdir]
    job, where, stop_is_final = training(launcher, tpu, ssh, given, workdir, log.info)
    with following(workdir, data, config.train.steps):
        run_job(f"train {experiment}", job, where, stop_is_final=stop_is_final)
    done = run_view.checkpoint_steps(workdir)
    return Completed(message=f"{workdir} is at step {done[-1]}" if done else f"{workdir} is trained")


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
