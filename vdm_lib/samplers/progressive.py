"""Progressive decoding: what a receiver sees of an image after some of its bits, and how many those were.

A sender who knows the image x draws z_1, z_(1-1/T), ..., z_0 one after the other from

    (1)  q(z_1 | x) and q(z_s | z_t, x), the latter p(z_s | z_t) with the true noise for the estimated one (App. A.4)

and tells each draw to a receiver who has p(z_1) and p(z_s | z_t). That takes KL(q(z_1 | x) || p(z_1)), for each step

    (2)  KL(q(z_s | z_t, x) || p(z_s | z_t)) = 1/2 (exp(gamma_t - gamma_s) - 1) |eps - eps_hat|^2   (Eq. 14 without T)

and at last -log p(x | z_0). The sum is an unbiased estimate of the bound with T steps, Eq. (11), and the receiver sees
x_hat(z_t) on the way.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_lib import diffusion, likelihood, sampling
from vdm_lib.model import VDM
from vdm_lib.noise import image_normals
from vdm_lib.samplers.film import keep, moments
from vdm_lib.samplers.loops import Loop, on_device
from vdm_lib.samplers.sampler import Spacing
from vdm_lib.samplers.solvers import estimate_image
from vdm_lib.types import Key, Labels, Latents, Levels, Params, PerImage


class Decoding(NamedTuple):
    """f moments of the telling of b images."""

    x_hat: Float[Array, "f b h w c"]
    """What the receiver sees before the step."""
    nats: Float[Array, "f b"]
    """What it took until then, the prior loss included."""
    recon_nats: PerImage
    """What the last part takes, from z_0 to the image."""
    total_nats: PerImage
    """All of it: the bound with num_steps steps."""


class _State(NamedTuple):
    z: Latents
    spent: PerImage
    x_hat: Float[Array, "f b h w c"]
    nats: Float[Array, "f b"]


def progressive(
    model: VDM,
    params: Params,
    images: Levels,
    key: Key,
    num_steps: int,
    num_frames: int,
    spacing: Spacing = "time",
    loop: Loop = on_device,
    labels: Labels | None = None,
) -> Decoding:
    """Return the decoding of images in num_steps steps, at those that `film.moments` names.

    Labels are the class of each image, which the receiver is told beforehand: the bits are those of the image given it.
    """
    num_levels, indices = model.data.num_levels, jnp.arange(images.shape[0])
    x = likelihood.encode(images, num_levels)
    key_1, key_steps = jax.random.split(key)
    shown = jnp.asarray(moments(num_steps, num_frames))

    def body(params: Params, state: _State, i: jax.Array) -> _State:
        here = sampling.gammas(model, params, spacing, i, num_steps)
        eps = (state.z - diffusion.alpha(here.t) * x) / diffusion.sigma(here.t)
        gamma_s, gamma_t = (jnp.broadcast_to(each, indices.shape) for each in (here.s, here.t))
        eps_hat = model.eps_hat(params, state.z, gamma_t, jnp.zeros(indices.shape), labels=labels)
        noise = image_normals(jax.random.fold_in(key_steps, i), indices, x.shape[1:])
        return _State(
            diffusion.p_sample(state.z, eps, noise, here.s, here.t),
            state.spent + diffusion.diffusion_loss_discrete(eps, eps_hat, gamma_s, gamma_t, 1),
            keep(state.x_hat, estimate_image(state.z, eps_hat, here.t), shown, i),
            keep(state.nats, state.spent, shown, i),
        )

    gamma_0, gamma_1 = (model.gamma(params, jnp.asarray(t)) for t in (0.0, 1.0))
    z_1 = diffusion.q_sample(x, image_normals(key_1, indices, x.shape[1:]), jnp.broadcast_to(gamma_1, indices.shape))
    empty = _State(
        z_1,
        diffusion.prior_loss(x, gamma_1),
        jnp.zeros((len(shown), *x.shape)),
        jnp.zeros((len(shown), x.shape[0])),
    )
    last = loop(body, params, empty, num_steps)
    recon = -likelihood.log_prob(images, last.z / diffusion.alpha(gamma_0), gamma_0, num_levels)
    return Decoding(last.x_hat, last.nats, recon, last.spent + recon)
