"""The flow vdm-pipeline: data, training, evaluation, export and promotion; what is done already is not done again."""

from collections.abc import Callable
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

import configs
from flows.evaluate import vdm_eval
from flows.export import vdm_export
from flows.parameters import Experiment, Overrides, data_dir, slug, work_dir
from flows.places import Kind, SshPlace, TpuSlice, check_place, stop_leftovers
from flows.preprocess import vdm_preprocess
from flows.redaction import redact
from flows.train import vdm_train


@flow(name="vdm-pipeline", on_cancellation=[stop_leftovers], on_crashed=[stop_leftovers])
def vdm_pipeline(
    experiment: Experiment = "digits",
    overrides: Overrides | None = None,
    source: str | None = None,
    data: str | None = None,
    workdir: str | None = None,
    registry: str | None = "registry",
    launcher: Kind = "local",
    tpu: TpuSlice | None = None,
    ssh: SshPlace | None = None,
    samples: int | None = None,
    sample_steps: int | None = None,
) -> Any:
    """Go from a data set to a promoted model; run it again to go on after a stage that failed.

    Args:
      experiment: Named config to start from.
      overrides: Values of the config to replace, by dotted key.
      source: Where the images are, as for vdm-preprocess; digits needs none.
      data: Data directory, made unless it is complete; default data/NAME of the config's data set.
      workdir: Run directory; default runs/EXPERIMENT.
      registry: Directory of published models; null publishes nothing.
      launcher: Where the training runs, as for vdm-train.
      tpu: The slice for launcher tpu.
      ssh: The hosts for launcher ssh.
      samples: Images in the pictures of the newest checkpoint and of the bundle; by default each flow's own.
      sample_steps: Sampling steps of each of them.
    """
    config = configs.load(experiment, overrides)
    data, workdir = data_dir(data, config), work_dir(workdir, experiment)
    check_place(launcher, tpu, ssh, config, data, workdir)
    pictures = {"samples": samples, "sample_steps": sample_steps}
    pictures = {name: value for name, value in pictures.items() if value is not None}
    where = {"launcher": launcher, "tpu": tpu, "ssh": ssh}
    run = {"workdir": workdir, "data": data}
    stages: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
        ("data", vdm_preprocess, {"dataset": config.data.name, "source": source, "out": data}),
        ("training", vdm_train, {"experiment": experiment, "overrides": overrides, **run, **where}),
        ("evaluation", vdm_eval, run | pictures),
        ("export", vdm_export, run | pictures | {"registry": registry}),
    ]
    lines: list[str] = []
    for name, stage, parameters in stages:
        state = stage(**parameters, return_state=True)
        lines.append(f"| {name} | {state.name} | {redact(state.message or '')} |")
        if not state.is_completed():
            report(workdir, lines)
            state.result()
            raise AssertionError(f"{name} ended as {state.name}")
        get_run_logger().info("%s: %s: %s", name, state.name, state.message)
    report(workdir, lines)
    return Completed(message=f"{workdir}: {state.message}")


def report(workdir: str, lines: list[str]) -> None:
    """Publish what became of each stage."""
    table = "\n".join(["| stage | state | |", "| --- | --- | --- |", *lines])
    create_markdown_artifact(f"# {workdir}\n\n{table}\n", key=f"pipeline-{slug(workdir)}", description="stages")
