"""The job `vdm import`: a checkpoint of google-research/vdm to a run directory, or the other way round."""

from dataclasses import replace

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

import configs
from pipelines import run_dir
from pipelines.results import ImportResult
from vdm_lib import reference
from vdm_lib.checkpoints import Checkpoints, Keep
from vdm_lib.config import Config
from vdm_lib.errors import ConfigError
from vdm_lib.files.new_directory import check_new_directory, new_directory
from vdm_lib.gamma_types import check_end_points, from_line
from vdm_lib.model import VDM, count_params
from vdm_lib.restore import newest_step
from vdm_lib.sharding import make_mesh, replicated
from vdm_lib.state import TrainState
from vdm_lib.train import init_state


def run(source: str, workdir: str, config: Config | None = None) -> ImportResult:
    """Make a run directory whose one checkpoint is the source's: to evaluate, sample, export or train on.

    Args:
      source: directory `checkpoints-0`, or one checkpoint in it without its extension; local or gs://.
      workdir: run directory to make.
      config: the experiment that it was trained as; None takes the named config with the same parameters. With
        gamma_type=learnable_monotone it was trained with learnable_scalar: the end points stay, the interior is new.

    Raises:
      CheckpointError: a checkpoint that cannot be read or is of another architecture.
      ConfigError: something is at `workdir` already, no named config has these parameters, or one that clips
        gradients.
    """
    check_new_directory(workdir)
    config = config or _recognise(source)
    _check_of_the_original(config, may_be_monotone=True)
    mesh = make_mesh()
    state = _read(source, config, mesh)
    metadata = {"config": configs.to_json(config), "data_fingerprints": {}, "imported_from": str(source)}
    with new_directory(workdir) as made:
        run_dir.open_run(str(made), config)
        keep = Keep(newest=config.train.keep_checkpoints)
        with Checkpoints(str(made), keep=keep, sparing=True) as checkpoints:
            checkpoints.save(state, metadata)
            checkpoints.wait()
    return ImportResult(
        config=config.name, destination=workdir, step=int(state.step), num_params=count_params(state.params)
    )


def run_reverse(workdir: str, directory: str, step: int | None = None) -> ImportResult:
    """Write a checkpoint of a run as a directory that google-research/vdm restores.

    Args:
      workdir: run directory.
      directory: directory to make, `checkpoints-0` in the original's own layout.
      step: which checkpoint; None takes the newest.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: something is at `directory` already, or a run that clips gradients, whose optimiser state has no form
        in the original.
    """
    check_new_directory(directory)
    config = run_dir.read_config(workdir)
    _check_of_the_original(config)
    step = newest_step(workdir) if step is None else step
    mesh = make_mesh()
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(step, jax.eval_shape(lambda: init_state(config, mesh)), replicated(mesh))
    reference.write_state(directory, state)
    return ImportResult(
        config=config.name, destination=directory, step=int(state.step), num_params=count_params(state.params)
    )


def _read(source: str, config: Config, mesh: Mesh) -> TrainState:
    """Return the state of the original; for learnable_monotone its line gives the end points, with moments of 0."""
    abstract = jax.eval_shape(lambda: init_state(config, mesh))
    if config.model.gamma_type != "learnable_monotone":
        return reference.read_state(source, abstract)
    line = replace(config, model=replace(config.model, gamma_type="learnable_scalar"))
    state = reference.read_state(source, jax.eval_shape(lambda: init_state(line, mesh)))
    like = abstract.params["gamma"]
    adam, *rest = state.opt_state
    still = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    adam = adam._replace(mu={**adam.mu, "gamma": still}, nu={**adam.nu, "gamma": still})
    params, ema = ({**tree, "gamma": from_line(tree["gamma"], like)} for tree in (state.params, state.ema_params))
    check_end_points(params, source)
    check_end_points(ema, source)
    return state.replace(params=params, ema_params=ema, opt_state=(adam, *rest))


def _check_of_the_original(config: Config, *, may_be_monotone: bool = False) -> None:
    if config.model.network != "unet":
        raise ConfigError(f"google-research/vdm has no network={config.model.network}")
    if config.model.num_classes:
        raise ConfigError("google-research/vdm has no class-conditional models: model.num_classes=0")
    if config.model.gamma_type == "learnable_monotone" and not may_be_monotone:
        raise ConfigError("google-research/vdm has no schedule model.gamma_type=learnable_monotone")
    if config.optim.gradient_clip_norm is not None:
        raise ConfigError("a run with optim.gradient_clip_norm keeps its optimiser's state otherwise than the original")


def _recognise(source: str) -> Config:
    """Return the first named config whose parameters are the source's."""
    found = reference.read_shapes(source)
    for name in configs.NAMES:
        config = configs.load(name)
        expected = jax.eval_shape(VDM.from_config(config).init, jax.random.key(0))
        if {path: leaf.shape for path, leaf in flatten_dict(expected, sep="/").items()} == found:
            return config
    raise ConfigError(f"no named config has the parameters of {source}{_sizes(found)}")


def _sizes(found: dict[str, tuple[int, ...]]) -> str:
    """Return what the parameters tell of a network, as values to give beside a config; empty if it is none of ours."""
    width = found.get("score_model/conv_in/kernel")
    layers = {path.split("/")[1] for path in found if path.startswith("score_model/down.block_")}
    if width is None or not layers:
        return ": it is not a checkpoint of this network"
    attention = "score_model/down.attn_0/q/kernel" in found
    values = f"model.n_embd={width[-1]} model.n_layer={len(layers)} model.with_attention={str(attention).lower()}"
    return f"; its network has {values}: name the config that it comes from, `vdm import SRC DST cifar10 {values}`"
