"""`vdm sample --inpaint`: the part of given images that a mask leaves out, drawn."""

import jax.numpy as jnp
import numpy as np

from pipelines.sampling.given import Given, read_images, read_mask
from pipelines.sampling.results import SampleResult
from pipelines.sampling.setting import Request, setting
from pipelines.sampling.strip import write_strip
from pipelines.sampling.told import names, of_given
from vdm_lib.errors import ConfigError
from vdm_lib.samplers.inpainting import inpaint


def run(
    request: Request, mask: str, given: Given, *, num: int = 8, draws: int = 4, times_each: int = 5
) -> SampleResult:
    """Write one row for each image: the image, what is known of it, and `draws` ways to fill it.

    Args:
      request: the run, the picture and the sampler, which is the ancestral one.
      mask: picture of the images' size, white where pixels are to be drawn.
      given: the images.
      num: how many of them, where they are not named.
      draws: fillings of each.
      times_each: how often each step is made.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: another sampler, a mask of another size, a number below 1, or a place where no picture can be
        written.
      DataError: images that the model cannot take.
      MachineError: so many images at once do not fit the memory.
      OSError: the picture cannot be written.
    """
    if request.sampler.solver != "ancestral":
        raise ConfigError(
            f"--inpaint goes by ancestral steps, which can be repeated: leave out --solver {request.sampler.solver}"
        )
    with setting(request, num=num, frames=draws, repeats=times_each) as here:
        unknown = read_mask(mask, here.model.data)
        images, own = read_images(given, here.model.data, num)
        labels = of_given(here.model.model, request.told, own, here.sampler.guidance)
        filled = inpaint(
            here.model, here.params, jnp.asarray(images.repeat(draws, axis=0)), jnp.asarray(unknown), here.key,
            here.num_steps, times_each, here.sampler, here.loop, None if labels is None else labels.repeat(draws),
        )  # fmt: skip
        filled = np.asarray(filled).reshape(len(images), draws, *images.shape[1:])
    # What is not known is shown as middle grey.
    known = np.where(unknown[..., np.newaxis], np.uint8(here.num_levels // 2), images)
    write_strip(
        request.out,
        np.concatenate([images[:, np.newaxis], known[:, np.newaxis], filled], axis=1),
        here.num_levels,
        columns=["image", "known", *(f"draw {k + 1}" for k in range(draws))],
        title=f"{here.num_steps:,} ancestral steps, each made {times_each}x",
        below="",
        names=names(labels),
    )
    return SampleResult(
        picture=request.out, num_images=filled.shape[0] * draws, num_steps=here.num_steps, step=here.step,
        times_each=times_each,
    )  # fmt: skip
