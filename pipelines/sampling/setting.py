"""What every picture of sampling starts from: a checkpoint, a sampler, numbers that were checked, and the loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from pipelines import run_dir
from pipelines.memory import one_device, out_of_memory_explained
from pipelines.place import check_picture
from pipelines.sampling.steps import step_by_step
from pipelines.sampling.told import Told, check_class, of_samples
from vdm_lib.errors import ConfigError
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.samplers.loops import Body
from vdm_lib.samplers.sampler import ANCESTRAL, Sampler
from vdm_lib.types import Key, Labels, Params


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command says of any picture, before anything is read."""

    workdir: str
    out: str
    num_steps: int = 250
    seed: int = 0
    step: int | None = None
    """Of the checkpoint; None takes the newest."""
    sampler: Sampler = ANCESTRAL
    told: Told = None
    """The class of the images, of a class-conditional model."""
    command: str = "vdm sample"
    """What the progress is told as."""


@dataclass(frozen=True)
class Setting:
    """A model with its parameters, and how to draw from it."""

    model: VDM
    params: Params
    step: int
    request: Request

    @property
    def sampler(self) -> Sampler:
        """How noise becomes images."""
        return self.request.sampler

    @property
    def num_steps(self) -> int:
        """Steps from noise to image."""
        return self.request.num_steps

    @property
    def num_levels(self) -> int:
        """Values that one channel of one pixel can take."""
        return self.model.data.num_levels

    @property
    def key(self) -> Key:
        """The key of all noise."""
        return jax.random.key(self.request.seed)

    def labels(self, num: int) -> Labels | None:
        """Return the class of each of `num` samples, None if none is told."""
        return of_samples(self.model.model, self.request.told, num, self.sampler.guidance)

    def loop(self, body: Body, params: Params, state: Any, num_steps: int) -> Any:
        """Carry a state through all steps, as `vdm_lib.samplers.loops`, one by one."""
        return step_by_step(body, params, state, num_steps, self.request.command, _ADVICE)


_ADVICE = "draw fewer images or fewer --frames"


@contextmanager
def setting(request: Request, endings: tuple[str, ...] = (".png",), **numbers: int) -> Iterator[Setting]:
    """Give what a picture is drawn with; memory that does not suffice inside the block is told in one line.

    Args:
      request: what the command says.
      endings: of files that the picture can be written to.
      numbers: more numbers of the command, by the names of its options; none may be below 1.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: a number that is too small or too large, a place where no picture can be written, points of the
        plane, a class that the model does not have, or guidance that it cannot give.
      MachineError: so many images at once do not fit the memory.
    """
    for name, value, smallest in (("steps", request.num_steps, 1), ("seed", request.seed, 0)):
        check_number(name, value, smallest)
    for name, value in numbers.items():
        check_number(name, value, 1)
    # Before the sampling, which may take hours.
    check_picture(request.out, endings)
    config = run_dir.read_config(request.workdir)
    if config.data.image_shape == (1, 1, 2):
        raise ConfigError("points of the plane have the grid's picture only")
    check_class(config.model, request.told, request.sampler.guidance)
    restored = restore_ema(request.workdir, config, request.step)
    with out_of_memory_explained(one_device(), lambda: _ADVICE):
        yield Setting(VDM.from_config(config), restored.params, restored.step, request)


def check_number(name: str, value: int, smallest: int) -> None:
    """Raise ConfigError for a number outside smallest..2^31-1."""
    if not smallest <= value < 2**31:
        raise ConfigError(f"{name} must lie in {smallest}..2^31-1, got {value}")
