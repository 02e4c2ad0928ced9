"""`vdm sample --progressive`: what is seen of given images after a part of their bits."""

import jax.numpy as jnp
import numpy as np

from pipelines.sampling.given import Given, read_images
from pipelines.sampling.results import SampleResult
from pipelines.sampling.setting import Request, setting
from pipelines.sampling.strip import write_strip
from pipelines.sampling.told import names, of_given
from vdm_lib.likelihood import most_likely_levels, nats_to_bpd
from vdm_lib.samplers.progressive import progressive


def run(request: Request, given: Given, *, num: int = 8, frames: int = 10) -> SampleResult:
    """Write one row for each image: what the receiver sees after some of the steps, and the image itself.

    Below the columns stand the bits per dimension until then, the mean of these images.

    Args:
      request: the run, the picture and how the steps are spaced.
      given: the images.
      num: how many of them, where they are not named.
      frames: moments to show, beside the image itself.

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: a number below 1, or a place where no picture can be written.
      DataError: images that the model cannot take.
      MachineError: so many images at once do not fit the memory.
      OSError: the picture cannot be written.
    """
    with setting(request, num=num, frames=frames) as here:
        images, own = read_images(given, here.model.data, num)
        labels = of_given(here.model.model, request.told, own)
        told = progressive(
            here.model, here.params, jnp.asarray(images), here.key, here.num_steps, frames, here.sampler.spacing,
            here.loop, labels,
        )  # fmt: skip
        x_hat = told.x_hat.reshape(-1, *images.shape[1:])
        seen = np.asarray(most_likely_levels(x_hat, here.num_levels)).astype(np.uint8).reshape(told.x_hat.shape)
    num_dims = here.model.data.num_dims
    spent = nats_to_bpd(np.asarray(told.nats, np.float64), num_dims).mean(axis=1)
    total = nats_to_bpd(np.asarray(told.total_nats, np.float64), num_dims)
    write_strip(
        request.out,
        np.concatenate([seen, images[np.newaxis]]).swapaxes(0, 1),
        here.num_levels,
        columns=[*(f"{bpd:.2f}" for bpd in spent), f"{total.mean():.2f}\nimage"],
        title=f"progressive decoding in {here.num_steps:,} steps",
        below=f"bits per dimension until then{', given the class' if labels is not None else ''}, mean of these images",
        names=names(labels),
    )
    measured = {"bpd of these images (one draw each)": float(total.mean())}
    if len(total) > 1:
        measured["its standard error over images and draws"] = float(total.std(ddof=1) / len(total) ** 0.5)
    return SampleResult(
        picture=request.out, num_images=len(images), num_steps=here.num_steps, step=here.step, measured=measured
    )
