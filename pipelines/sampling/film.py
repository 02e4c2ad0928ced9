"""`vdm sample --film`: how noise becomes images, as a strip or an animation."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from etils import epath

from pipelines.sampling.results import SampleResult
from pipelines.sampling.setting import Request, setting
from pipelines.sampling.strip import write_strip
from pipelines.sampling.told import names
from vdm_lib import sampling
from vdm_lib.images import grid, write_gif
from vdm_lib.likelihood import most_likely_levels
from vdm_lib.samplers.film import film, moments

Shown = Literal["x", "z", "both"]
_FRAMES_OF_STRIP, _FRAMES_OF_GIF = 10, 50


def run(request: Request, *, num: int = 8, frames: int | None = None, shown: Shown = "x") -> SampleResult:
    """Draw `num` images and write what is there at `frames` of the steps, and at the end.

    A strip has a row for each image, an animation (.gif) the grid of all images.

    Args:
      request: the run, the picture and the sampler.
      num: images to draw.
      frames: moments to show; None takes 10, or 50 of an animation.
      shown: `x` the image that the network sees in z_t, `z` z_t itself, `both` z_t above it (or beside it).

    Raises:
      CheckpointError: no such checkpoint.
      ConfigError: a number below 1, or a place where no picture can be written.
      MachineError: so many images at once do not fit the memory.
      OSError: the picture cannot be written.
    """
    animated = request.out.lower().endswith(".gif")
    frames = (_FRAMES_OF_GIF if animated else _FRAMES_OF_STRIP) if frames is None else frames
    with setting(request, (".png", ".gif"), num=num, frames=frames) as here:
        z_1, key_steps = sampling.start(here.model, here.key, num)
        labels = here.labels(num)
        made = film(here.model, here.params, here.sampler, z_1, key_steps, here.num_steps, frames, here.loop, labels)
        images = sampling.levels(here.model, here.params, made.z_0, here.sampler, key_steps)
        ways = {"x": (made.x_hat,), "z": (made.z,), "both": (made.z, made.x_hat)}[shown]
        # [way, frame, image, ...]; the last frame is the image itself.
        seen = np.stack(
            [
                np.concatenate([_levels(way, here.num_levels), np.asarray(images)[np.newaxis].astype(np.uint8)])
                for way in ways
            ]
        )
    if animated:
        pictures = [
            np.concatenate([grid(part[k], here.num_levels) for part in seen], axis=1) for k in range(seen.shape[1])
        ]
        epath.Path(request.out).parent.mkdir(parents=True, exist_ok=True)
        write_gif(request.out, pictures)
    else:
        # [image, way, frame, ...]
        rows = seen.transpose(2, 0, 1, 3, 4, 5).reshape(-1, *seen.shape[1:2], *seen.shape[3:])
        what = {
            "x": "the image that the network sees in z_t",
            "z": "z_t",
            "both": "z_t, below it the image that the network sees in it",
        }[shown]
        write_strip(
            request.out,
            rows,
            here.num_levels,
            columns=[*map(str, moments(here.num_steps, frames)), "end"],
            title=f"{what}; {here.num_steps:,} steps of {here.sampler.solver}",
            below="steps before",
            names=[name if k == 0 else "" for name in names(labels) for k in range(len(ways))],
        )
    return SampleResult(picture=request.out, num_images=num, num_steps=here.num_steps, step=here.step)


def _levels(x: jnp.ndarray, num_levels: int) -> np.ndarray:
    return np.asarray(most_likely_levels(x.reshape(-1, *x.shape[2:]), num_levels)).astype(np.uint8).reshape(x.shape)
