"""Between two images: along the sphere between their noises, by a flow that leads from noise to image and back.

The flow of `ddim` and `dpm` makes each image from one z_1. Noise in many dimensions lies near a sphere, so the way
between two is the arc

    (1)  slerp(a, b; w) = (sin((1 - w) theta) a + sin(w theta) b) / sin(theta),  theta the angle between a and b.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vdm_lib import diffusion, sampling
from vdm_lib.likelihood import encode
from vdm_lib.model import VDM
from vdm_lib.samplers.loops import Loop, on_device
from vdm_lib.samplers.sampler import Sampler
from vdm_lib.samplers.solvers import Chain
from vdm_lib.types import Key, Labels, Latents, Levels, Params

_SMALLEST_SINE = 1e-4
"""Below it the arc is as good as straight."""


def slerp(a: Latents, b: Latents, weights: Float[Array, " k"]) -> Float[Array, "b k h w c"]:
    """Return the points on the arc from each a (weight 0) to its b (weight 1), Eq. (1), lengths in between too."""
    axes = (1, 2, 3)
    norms = jnp.sqrt(jnp.sum(jnp.square(a), axes) * jnp.sum(jnp.square(b), axes))
    cosine = jnp.sum(a * b, axes) / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)
    theta = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))[:, None]
    sine = jnp.sin(theta)
    straight = sine < _SMALLEST_SINE
    safe = jnp.where(straight, 1.0, sine)
    of_a = jnp.where(straight, 1.0 - weights, jnp.sin((1.0 - weights) * theta) / safe)
    of_b = jnp.where(straight, weights, jnp.sin(weights * theta) / safe)
    return of_a[..., None, None, None] * a[:, None] + of_b[..., None, None, None] * b[:, None]


def noise_of(
    model: VDM,
    params: Params,
    sampler: Sampler,
    images: Levels,
    num_steps: int,
    loop: Loop = on_device,
    labels: Labels | None = None,
) -> Latents:
    """Return the z_1 from which the flow makes the images; it starts at z_0 = alpha_0 x, the middles of their bins.

    Labels are the class of each image, whose flow it is.

    Raises:
      ConfigError: a sampler that draws noise on its way, which no flow does.
    """

    def body(params: Params, chain: Chain, i: jax.Array) -> Chain:
        return sampling.retreat(model, params, sampler, chain, i, num_steps, labels)

    gamma_0 = model.gamma(params, jnp.asarray(0.0))
    z_0 = diffusion.alpha(gamma_0) * encode(images, model.data.num_levels)
    return loop(body, params, sampling.begin(z_0), num_steps).z


def interpolate(
    model: VDM,
    params: Params,
    sampler: Sampler,
    a: Latents,
    b: Latents,
    weights: Float[Array, " k"],
    key_steps: Key,
    num_steps: int,
    loop: Loop = on_device,
    labels: Labels | None = None,
) -> UInt8[Array, "b k h w c"]:
    """Return the images on the arc from each noise a to its b.

    Args:
      model: of the images.
      params: of the network.
      sampler: `ddim` or `dpm`.
      a: noise at weight 0, [b, h, w, c].
      b: noise at weight 1.
      weights: the points on the arc.
      key_steps: of drawn levels, if they are drawn.
      num_steps: steps from noise to image.
      loop: what carries it through the steps.
      labels: one class for each arc, [b]; None tells none.
    """
    told = None if labels is None else jnp.repeat(labels, len(weights))

    def body(params: Params, chain: Chain, i: jax.Array) -> Chain:
        return sampling.advance(model, params, sampler, chain, key_steps, i, num_steps, told)

    arcs = slerp(a, b, weights)
    z_0 = loop(body, params, sampling.begin(arcs.reshape(-1, *a.shape[1:])), num_steps).z
    return sampling.levels(model, params, z_0, sampler, key_steps).reshape(arcs.shape)
