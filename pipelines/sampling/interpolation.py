"""`vdm sample --interpolate`: from one image to another along the arc between their noises."""

import jax.numpy as jnp
import numpy as np

from pipelines.sampling.given import Given, read_images
from pipelines.sampling.results import SampleResult
from pipelines.sampling.setting import Request, setting
from pipelines.sampling.strip import write_strip
from pipelines.sampling.told import names, of_given, of_pairs
from vdm_lib import sampling
from vdm_lib.errors import ConfigError
from vdm_lib.samplers.interpolation import interpolate, noise_of
from vdm_lib.samplers.sampler import FLOWS


def run(request: Request, *, num: int = 8, frames: int = 9, given: Given | None = None) -> SampleResult:
    """Write one row of `frames` images for each pair: from the first to the second.

    Args:
      request: the run, the picture and the sampler, `ddim` or `dpm`.
      num: images at the ends, an even number.
      frames: images of a row, its ends included.
      given: the images at the ends; None draws them. Their noise is found by the flow backwards, and how far the ends
        of the rows are from them is measured.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: a sampler that draws noise on its way, an odd number of images or a pair of two classes, fewer than
        two frames, or a place where no picture can be written.
      DataError: images that the model cannot take.
      MachineError: so many images at once do not fit the memory.
      OSError: the picture cannot be written.
    """
    if request.sampler.solver not in FLOWS:
        raise ConfigError(
            f"--interpolate needs the flow of --solver dpm or ddim: steps of {request.sampler.solver} draw noise anew"
        )
    if frames < 2:
        raise ConfigError(f"an interpolation has at least two --frames, its ends, got {frames}")
    with setting(request, num=num, frames=frames) as here:
        ends, labels, measured = None, None, {}
        if given is not None:
            ends, own = read_images(given, here.model.data, num)
            labels = of_given(here.model.model, request.told, own, here.sampler.guidance)
        count = num if ends is None else len(ends)
        if count < 2 or count % 2:
            raise ConfigError(f"an interpolation is between pairs: give an even number of images, got {count}")
        of_rows = here.labels(count // 2) if ends is None else of_pairs(labels)
        z_1, key_steps = sampling.start(here.model, here.key, count)
        if ends is not None:
            z_1 = noise_of(here.model, here.params, here.sampler, jnp.asarray(ends), here.num_steps, here.loop, labels)
        weights = np.linspace(0.0, 1.0, frames)
        images = np.asarray(
            interpolate(
                here.model, here.params, here.sampler, z_1[::2], z_1[1::2], jnp.asarray(weights, jnp.float32),
                key_steps, here.num_steps, here.loop, of_rows,
            )
        )  # fmt: skip
        if ends is not None:
            found = images[:, [0, -1]].reshape(ends.shape)
            measured["share of the ends' values that are not the given ones"] = float(np.mean(found != ends))
    write_strip(
        request.out,
        images,
        here.num_levels,
        columns=[f"{weight:.2f}" for weight in weights],
        title=f"between the noises of {'images' if given else 'samples'}; {here.num_steps:,} steps of "
        f"{here.sampler.solver}",
        below="weight of the right end",
        names=names(of_rows),
    )
    return SampleResult(
        picture=request.out, num_images=images.shape[0] * frames, num_steps=here.num_steps, step=here.step,
        measured=measured,
    )  # fmt: skip
