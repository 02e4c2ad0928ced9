"""The variational diffusion model: a noise schedule and a score network behind pure functions of the parameters.

The negative evidence lower bound of an image (Eq. 11 of arXiv 2107.00630) is the sum of three losses in nats:
reconstruction -log p(x | z_0), prior KL(q(z_1 | x) || p(z_1)), and the diffusion loss.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_lib import diffusion, likelihood, schedules, second_moment
from vdm_lib.config import ComputeDtype, Config, DataConfig, EvalSchedule, ModelConfig
from vdm_lib.labels import no_labels
from vdm_lib.mlp import ScoreMLP
from vdm_lib.noise import normals
from vdm_lib.schedules import make_schedule
from vdm_lib.types import Conditioning, Key, KeyPerImage, Labels, Latents, Levels, Params, PerImage
from vdm_lib.unet import ScoreUNet

INTERIOR_SHARE = 0.01
"""Of the gradient of the second moment, in squared bits per dimension. Adam does not see the size of a gradient, but
the global norm does: so it stays that of the bound's."""


class Noise(NamedTuple):
    """What one estimate of the loss draws at random."""

    eps_0: Latents
    """Standard normal noise of z_0 for the reconstruction loss."""
    t: PerImage
    """Time of each image in [0, 1); with T steps it is rounded up to a multiple of 1/T."""
    eps: Latents
    """Standard normal noise of z_t for the diffusion loss."""


class Losses(NamedTuple):
    """The three terms of the bound in nats per image; each may be divided into bits per dimension."""

    recon: PerImage
    latent: PerImage
    diff: PerImage

    @property
    def total(self) -> PerImage:
        """The negative evidence lower bound, an upper bound on -log p(x)."""
        return self.recon + self.latent + self.diff


class _Modules(nn.Module):
    """Holds the two flax modules, so that the parameters form one tree {gamma, score_model}."""

    model: ModelConfig
    compute_dtype: str

    def setup(self) -> None:
        model = self.model
        self.gamma = make_schedule(model)
        common = {
            "n_embd": model.n_embd,
            "n_layer": model.n_layer,
            "dropout": model.dropout,
            "fourier_exponents": model.fourier_exponents if model.with_fourier_features else (),
            "gamma_min": model.gamma_min,
            "gamma_max": model.gamma_max,
            "num_classes": model.num_classes,
            "dtype": jnp.dtype(self.compute_dtype),
        }
        if model.network == "mlp":
            self.score_model = ScoreMLP(**common)
            return
        self.score_model = ScoreUNet(
            **common,
            with_attention=model.with_attention,
            remat=model.remat,
            remat_keeps=model.remat_keeps,
            scan=loops_over_layers(model),
        )

    def __call__(self, z: Latents, t: PerImage, conditioning: Conditioning, labels: Labels) -> Latents:
        return self.score_model(z, self.gamma(t), conditioning, labels=labels)


@dataclass(frozen=True)
class VDM:
    """A variational diffusion model for images of one shape; it holds no parameters."""

    data: DataConfig
    model: ModelConfig
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations inside the network; everything else is float32."""
    schedule: EvalSchedule = "own"
    """Way of gamma between its end points: the model's own, or another that is put in its place."""
    interior_by_variance: bool = False
    """Gradients of a loss in the interior of the schedule are those of its second moment: docs/schedule.md."""

    @classmethod
    def from_config(cls, config: Config) -> "VDM":
        """Return the model of an experiment, computing in float32."""
        return cls(data=config.data, model=config.model)

    @classmethod
    def for_training(cls, config: Config) -> "VDM":
        """Return the model of an experiment as it is trained, with train.compute_dtype inside the network.

        In continuous time the bound does not depend on the interior of gamma, so that of `learnable_monotone` follows
        the variance; with T steps it does depend on it, and everything follows the bound.
        """
        model = config.model
        by_variance = model.gamma_type == "learnable_monotone" and not model.timesteps
        return cls(
            data=config.data, model=model, compute_dtype=config.train.compute_dtype, interior_by_variance=by_variance
        )

    @classmethod
    def for_evaluation(cls, config: Config) -> "VDM":
        """Return the model of an experiment as it is measured, with the schedule of eval.schedule."""
        return cls(data=config.data, model=config.model, schedule=config.eval.schedule)

    @cached_property
    def _modules(self) -> _Modules:
        return _Modules(self.model, self.compute_dtype)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output alone: flax's own type admits a second value, which only mutable collections bring."""
        return self._modules.apply(*args, **kwargs)

    def init(self, key: Key) -> Params:
        """Return freshly drawn parameters, a nested dict of float32 arrays."""
        z = jnp.zeros((1, *self.data.image_shape))
        label = jnp.zeros((1,), jnp.int32)
        return dict(self._modules.init(key, z, jnp.zeros((1,)), jnp.zeros((1,)), label)["params"])

    def gamma(self, params: Params, t: Float[Array, " *n"]) -> Float[Array, " *n"]:
        """Return -log SNR(t) for times t of any shape."""
        if self.schedule == "own":
            return self._apply({"params": params}, t, method=lambda modules, t: modules.gamma(t))
        own = replace(self, schedule="own")
        gamma_0, gamma_1 = own.gamma(params, jnp.asarray(0.0)), own.gamma(params, jnp.asarray(1.0))
        return getattr(schedules, self.schedule)(gamma_0, gamma_1, t)

    def gamma_and_slope(self, params: Params, t: PerImage) -> tuple[PerImage, PerImage]:
        """Return gamma(t) and d gamma / dt, the slope by forward-mode differentiation."""
        return jax.jvp(lambda t: self.gamma(params, t), (t,), (jnp.ones_like(t),))

    def gamma_and_factor(self, params: Params, t: PerImage) -> tuple[PerImage, PerImage]:
        """Return gamma and what |eps - eps_hat|^2 is multiplied with in the diffusion loss.

        These are the factors of Eqs. (4) and (5) of `diffusion`; with T steps times are rounded up to multiples of 1/T.
        """
        timesteps = self.model.timesteps
        if not timesteps:
            gamma_t, slope = self.gamma_and_slope(params, t)
            return gamma_t, 0.5 * slope
        t = diffusion.discretise_times(t, timesteps)
        gamma_t = self.gamma(params, t)
        return gamma_t, 0.5 * timesteps * jnp.expm1(gamma_t - self.gamma(params, t - 1.0 / timesteps))

    def eps_hat(
        self,
        params: Params,
        z_t: Latents,
        gamma_t: PerImage,
        conditioning: Conditioning,
        dropout_key: Key | KeyPerImage | None = None,
        labels: Labels | None = None,
    ) -> Latents:
        """Return the network's estimate of the noise in z_t; dropout acts only if a key is given.

        A key of shape [] serves the whole batch, keys of shape [b] are one for each image. Without labels a model with
        classes is told none; a model without classes does not look at them.
        """
        if labels is None and self.model.num_classes:
            labels = no_labels(self.model, z_t.shape[0])
        if dropout_key is not None and dropout_key.ndim == 0:
            dropout_key = jax.random.split(dropout_key, z_t.shape[0])
        return self._apply(
            {"params": params},
            z_t,
            gamma_t,
            conditioning,
            dropout_key,
            labels,
            method=lambda modules, *inputs: modules.score_model(*inputs),
        )

    def draw_noise(self, key: Key, num_images: int) -> Noise:
        """Return the noise of one estimate of the loss for a batch."""
        key_0, key_t, key_eps = jax.random.split(key, 3)
        shape = (num_images, *self.data.image_shape)
        antithetic = self.model.antithetic_time_sampling
        return Noise(
            eps_0=normals(key_0, shape),
            t=diffusion.sample_times(key_t, num_images, antithetic=antithetic),
            eps=normals(key_eps, shape),
        )

    def diffusion_loss(
        self,
        params: Params,
        x: Latents,
        conditioning: Conditioning,
        t: PerImage,
        eps: Latents,
        dropout_key: Key | KeyPerImage | None = None,
        labels: Labels | None = None,
    ) -> PerImage:
        """Return the diffusion loss in nats per image at times t, an unbiased estimate for uniform t.

        Args:
          params: as `init` makes them.
          x: encoded images in [-1, 1].
          conditioning: [b], 1 where augmentation touched the image, else 0.
          t: times in [0, 1); with T steps they are rounded up to multiples of 1/T.
          eps: standard normal noise of z_t.
          dropout_key: turns dropout on.
          labels: class of each image, [b]; None tells none.
        """
        timesteps = self.model.timesteps
        if timesteps:
            t = diffusion.discretise_times(t, timesteps)

        def loss(gamma_t: PerImage, slope: PerImage) -> PerImage:
            z_t = diffusion.q_sample(x, eps, gamma_t)
            eps_hat = self.eps_hat(params, z_t, gamma_t, conditioning, dropout_key, labels)
            if timesteps:
                gamma_s = self.gamma(params, t - 1.0 / timesteps)
                return diffusion.diffusion_loss_discrete(eps, eps_hat, gamma_s, gamma_t, timesteps)
            return diffusion.diffusion_loss_continuous(eps, eps_hat, slope)

        if self.interior_by_variance:
            return self._by_variance(params, t, loss)
        return loss(*self.gamma_and_slope(params, t))

    def _by_variance(self, params: Params, t: PerImage, loss: Callable[[PerImage, PerImage], PerImage]) -> PerImage:
        """Return loss(gamma(t), gamma'(t)), whose gradient in the interior of gamma is that of its second moment."""

        def interior(t: PerImage) -> PerImage:
            return self._apply({"params": params}, t, method=lambda modules, t: modules.gamma.interior(t))

        def between(h: PerImage) -> PerImage:
            return self._apply({"params": params}, h, method=lambda modules, h: modules.gamma.between(h))

        h, rate, tag = second_moment.begin(*jax.jvp(interior, (t,), (jnp.ones_like(t),)))
        nats = loss(*jax.jvp(between, (h,), (rate,)))
        return second_moment.end(nats, tag, self.data.num_dims * math.log(2.0) / INTERIOR_SHARE)

    def losses(
        self,
        params: Params,
        images: Levels,
        conditioning: Conditioning,
        noise: Noise,
        dropout_key: Key | KeyPerImage | None = None,
        labels: Labels | None = None,
    ) -> Losses:
        """Return the three losses in nats per image, an unbiased estimate of the bound.

        Args:
          params: as `init` makes them.
          images: levels 0 .. num_levels - 1, [b, h, w, c], any integer dtype.
          conditioning: [b], 1 where augmentation touched the image, else 0.
          noise: times and noise, one per image.
          dropout_key: turns dropout on; one key, or one for each image, [b].
          labels: class of each image, [b]; None tells none.
        """
        num_levels = self.data.num_levels
        x = likelihood.encode(images, num_levels)
        gamma_0, gamma_1 = self.gamma(params, jnp.asarray(0.0)), self.gamma(params, jnp.asarray(1.0))

        z_0_rescaled = x + jnp.exp(0.5 * gamma_0) * noise.eps_0
        recon = -likelihood.log_prob(images, z_0_rescaled, gamma_0, num_levels)
        latent = diffusion.prior_loss(x, gamma_1)

        diff = self.diffusion_loss(params, x, conditioning, noise.t, noise.eps, dropout_key, labels)
        return Losses(recon=recon, latent=latent, diff=diff)


def loops_over_layers(model: ModelConfig) -> bool:
    """Return whether the network is compiled as a loop over its layers."""
    if model.network != "unet" or model.scan_layers != "auto":
        return model.scan_layers == "on"
    # XLA's CPU backend takes tens of times longer for the gradient of a convolution inside a loop.
    return jax.default_backend() != "cpu"


def count_params(params: Params) -> int:
    """Return the number of parameters; works on shapes as well as on arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
