"""The sampling job: a grid of samples of a checkpoint's EMA parameters as PNG."""

import jax
import numpy as np
from etils import epath

from pipelines import run_dir
from pipelines.memory import check_program_fits, one_device, out_of_memory_explained
from pipelines.place import check_picture
from pipelines.results import SampleResult
from vdm_lib.errors import ConfigError
from vdm_lib.images import grid, write_png
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.sampling import sample


def run(
    workdir: str, out: str, *, num: int = 64, steps: int = 250, seed: int = 0, step: int | None = None
) -> SampleResult:
    """Draw `num` images by `steps` ancestral steps and write them as one grid.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: num or steps below 1, a number that is too large, or a place where no PNG can be written.
      MachineError: so many images at once do not fit the memory.
      OSError: the picture cannot be written.
    """
    for name, value, smallest in (("num", num, 1), ("steps", steps, 1), ("seed", seed, 0)):
        if not smallest <= value < 2**31:
            raise ConfigError(f"{name} must lie in {smallest}..2^31-1, got {value}")
    # Before the sampling, which may take hours.
    check_picture(out)
    config = run_dir.read_config(workdir)
    restored = restore_ema(workdir, config, step)
    model, key, device = VDM.from_config(config), jax.random.key(seed), one_device()
    advice = f"draw fewer images than --num {num}"
    with out_of_memory_explained(device, lambda: advice):
        drawn = (
            jax.jit(lambda params, key: sample(model, params, key, num, steps)).lower(restored.params, key).compile()
        )
        check_program_fits(drawn, device, advice)
        picture = grid(np.asarray(drawn(restored.params, key)), config.data.num_levels)
        epath.Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_png(out, picture)
    return SampleResult(picture=out, num_images=num, num_steps=steps, step=restored.step)
