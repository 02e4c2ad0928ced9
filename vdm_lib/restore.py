"""A trained model for use, not for going on training: its config and its EMA parameters from a checkpoint."""

from dataclasses import dataclass
from typing import Any

from vdm_lib.checkpoints import Checkpoints
from vdm_lib.config import Config
from vdm_lib.errors import CheckpointError
from vdm_lib.gamma_types import check_end_points
from vdm_lib.sharding import make_mesh, replicated
from vdm_lib.train import abstract_state
from vdm_lib.types import Params


@dataclass(frozen=True)
class Restored:
    """What a checkpoint holds for its users."""

    step: int
    params: Params
    metadata: dict[str, Any]


def newest_step(workdir: str) -> int:
    """Return the newest complete step of a run.

    Raises:
      CheckpointError: there is none.
    """
    with Checkpoints(workdir) as checkpoints:
        steps = checkpoints.steps()
    if not steps:
        raise CheckpointError(f"{workdir} holds no checkpoint yet: train first with `vdm train`")
    return steps[-1]


def restore_ema(workdir: str, config: Config, step: int | None = None, *, raw: bool = False) -> Restored:
    """Return the EMA parameters of a step, the newest if None; with `raw` those that they average.

    Raises:
      CheckpointError: no such checkpoint, one that cannot be read, or one whose end points of gamma have crossed.
    """
    step = newest_step(workdir) if step is None else step
    mesh = make_mesh()
    with Checkpoints(workdir) as checkpoints:
        metadata = checkpoints.metadata(step)
        state = checkpoints.restore(step, abstract_state(config, mesh), replicated(mesh))
    params = state.params if raw else state.ema_params
    check_end_points(params, f"checkpoint {step} of {workdir}")
    return Restored(step=step, params=params, metadata=metadata)
