"""The sampling job: a grid of samples of a checkpoint's EMA parameters as PNG."""

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from pipelines import run_dir
from pipelines.memory import one_device, out_of_memory_explained
from pipelines.place import check_picture
from pipelines.sampling.results import SampleResult
from pipelines.sampling.steps import step_by_step
from vdm_lib import sampling
from vdm_lib.errors import ConfigError
from vdm_lib.images import picture, write_png
from vdm_lib.labels import Wanted, labels_to_draw
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.samplers.sampler import ANCESTRAL, Sampler
from vdm_lib.samplers.solvers import Chain
from vdm_lib.types import Key, Labels, Params


def run(
    workdir: str,
    out: str,
    *,
    num: int = 64,
    steps: int = 250,
    seed: int = 0,
    step: int | None = None,
    sampler: Sampler = ANCESTRAL,
    label: Wanted | None = None,
) -> SampleResult:
    """Draw `num` images by `steps` steps of a sampler and write them as one grid.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: num or steps below 1, a number that is too large, a place where no PNG can be written, a class that
        the model does not have, or guidance without one.
      MachineError: so many images at once do not fit the memory.
      OSError: the picture cannot be written.
    """
    for name, value, smallest in (("num", num, 1), ("steps", steps, 1), ("seed", seed, 0)):
        if not smallest <= value < 2**31:
            raise ConfigError(f"{name} must lie in {smallest}..2^31-1, got {value}")
    # Before the sampling, which may take hours.
    check_picture(out)
    config = run_dir.read_config(workdir)
    labels = labels_to_draw(config.model, label, num, sampler.guidance)
    restored = restore_ema(workdir, config, step)
    model, device = VDM.from_config(config), one_device()
    advice = f"draw fewer images than --num {num}"
    with out_of_memory_explained(device, lambda: advice):
        images = _draw(model, restored.params, sampler, num, steps, seed, labels, advice)
        # All classes in turn: one column each.
        columns = config.model.num_classes if isinstance(label, str) else None
        drawn = picture(images, config.data.num_levels, columns)
        epath.Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_png(out, drawn)
    return SampleResult(picture=out, num_images=num, num_steps=steps, step=restored.step)


def _draw(
    model: VDM,
    params: Params,
    sampler: Sampler,
    num: int,
    steps: int,
    seed: int,
    labels: Labels | None,
    advice: str,
) -> UInt8[np.ndarray, "n h w c"]:
    def begin() -> tuple[Chain, Key]:
        z_1, key_steps = sampling.start(model, jax.random.key(seed), num)
        return sampling.begin(z_1), key_steps

    def advance(params: Params, state: tuple[Chain, Key], i: jax.Array) -> tuple[Chain, Key]:
        chain, key_steps = state
        return sampling.advance(model, params, sampler, chain, key_steps, i, steps, labels), key_steps

    chain, key_steps = step_by_step(advance, params, jax.jit(begin)(), steps, "vdm sample", advice)
    decode = jax.jit(lambda params, z, key: sampling.levels(model, params, z, sampler, key))
    return np.asarray(decode(params, chain.z, key_steps))
