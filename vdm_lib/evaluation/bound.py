"""The variational bound of a split: two parts in closed form, the diffusion loss by importance-sampled times.

An estimate of image i in pass k is (L(t_ik, x_i, eps_ik) - sum_j beta_j(t_ik) C_j(t_ik, x_i, eps_ik)) / q(t_ik) + B_i
with t_ik a systematic sample of the density q over the whole split (`time_density`), C_j control variates, and B_i
what they take off this image on average (`control`). q and beta are fitted to the checkpoint by a pilot whose draws
are not used again, so that every estimate is unbiased.
"""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_lib.config import ControlVariate, TimeSampling
from vdm_lib.evaluation import time_density
from vdm_lib.evaluation.closed_forms import per_image, prior_table, recon_table
from vdm_lib.evaluation.control import (
    Coefficient,
    Coefficients,
    Control,
    fit_coefficients,
    make_controls,
    without_controls,
)
from vdm_lib.evaluation.passes import NoStore, OnePass, PassStore, Runner, check_finite
from vdm_lib.evaluation.time_density import TimeDensity
from vdm_lib.likelihood import encode, nats_to_bpd
from vdm_lib.model import VDM
from vdm_lib.noise import image_normals
from vdm_lib.types import Key, Labels, Levels, Params, PerImage

_PILOT = 2**31
"""Stands where the index of a pass stands otherwise: the pilot's draws are its own."""


@dataclass(frozen=True)
class DiffusionLoss:
    """The diffusion loss of each image at its time, in nats."""

    model: VDM

    def __call__(
        self, params: Params, images: Levels, labels: Labels | None, indices: jax.Array, times: PerImage, key: Key
    ) -> PerImage:
        """Return one draw of the noise per image."""
        x = encode(images, self.model.data.num_levels)
        eps = image_normals(key, indices, self.model.data.image_shape)
        conditioning = jnp.zeros(images.shape[0], jnp.int32)
        return self.model.diffusion_loss(params, x, conditioning, times, eps, labels=labels)


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound of every image of a split, pass by pass, in bits per dimension."""

    model: VDM
    runner: Runner
    seed: int
    density: TimeDensity
    coefficients: Coefficients
    controls: tuple[Control, ...]
    """One for each coefficient; none where there is none."""
    put_back: Float[np.ndarray, " n"]
    """What the controls take off each image on average."""
    recon: Float[np.ndarray, " n"]
    """Exact reconstruction loss of each image."""
    latent: Float[np.ndarray, " n"]
    """Exact prior loss of each image."""
    even_by_image: bool = True
    """Spread the times of each image evenly over the passes; otherwise every pass has an order of its own."""
    pilot_calls: int = 0
    """Evaluations of the network for the density."""
    pilot_seconds: float = 0.0
    """Wall time of those, compilation included."""

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return len(self.recon)

    @property
    def exact(self) -> Float[np.ndarray, " n"]:
        """The part of each image that is not estimated."""
        return self.recon + self.latent

    def coefficient_knots(self, kind: type) -> tuple[float, ...]:
        """Return the knots of the coefficient of one kind of control, none where there is none."""
        pairs = zip(self.controls, self.coefficients, strict=True)
        return next((each.knots for control, each in pairs if isinstance(control.estimate, kind)), ())

    def positions(self, pass_index: int) -> Float[np.ndarray, " n"]:
        """Return where each image stands in the systematic sample of a pass, in [0, 1)."""
        draw = time_density.even_positions if self.even_by_image else time_density.positions
        return draw(self.seed, pass_index, self.num_images)

    def times(self, pass_index: int) -> Float[np.ndarray, " n"]:
        """Return the time of each image in a pass, float32."""
        return self.density.times(self.positions(pass_index))

    def one_pass(self, pass_index: int) -> OnePass:
        """Return the diffusion loss of every image; of the estimate its control variates are taken off."""
        times, num_dims = self.times(pass_index), self.model.data.num_dims
        key = jax.random.fold_in(jax.random.key(self.seed), pass_index)
        losses = self.runner(DiffusionLoss(self.model), times, key)
        controls = [control(times, key) for control in self.controls]
        nats = without_controls(losses, controls, self.coefficients, times)
        estimates = nats_to_bpd(nats, num_dims) / self.density.at(times) + self.put_back
        return OnePass(estimates, nats_to_bpd(losses, num_dims))


@dataclass(frozen=True)
class Pilot:
    """The losses of some images at evenly spread times, with their control variates, in bits per dimension."""

    times: Float[np.ndarray, " m"]
    losses: Float[np.ndarray, " m"]
    controls: list[Float[np.ndarray, " m"]]


def draw_pilot(model: VDM, runner: Runner, controls: tuple[Control, ...], seed: int) -> Pilot:
    """Return the draws that density and coefficients are fitted to, of `time_density.pilot_size` images.

    Raises:
      DivergedError: losses that are not finite.
    """
    num_images = len(runner.split.images)
    size = time_density.pilot_size(num_images)
    generator = np.random.Generator(np.random.Philox(key=[seed, _PILOT]))
    indices = np.argsort(generator.random(num_images), kind="stable")[:size]
    times = TimeDensity().times(time_density.positions(seed, _PILOT + 1, size))
    key = jax.random.fold_in(jax.random.key(seed), _PILOT)
    losses = runner(DiffusionLoss(model), times, key, indices)
    by_image = np.zeros(num_images)
    by_image[indices] = losses
    check_finite(by_image, f"{runner.split.name} images")
    num_dims = model.data.num_dims
    rows = [nats_to_bpd(control(times, key, indices), num_dims) for control in controls]
    return Pilot(times, nats_to_bpd(losses, num_dims), rows)


def make_bound(
    model: VDM,
    runner: Runner,
    seed: int,
    time_sampling: TimeSampling,
    control_variate: ControlVariate = "none",
    store: PassStore | None = None,
) -> Bound:
    """Return the bound of a split under the parameters of the runner.

    Args:
      model: the model.
      runner: parameters and images.
      seed: seed of times and noise.
      time_sampling: whether the density of the times is fitted or uniform.
      control_variate: the losses of which simple denoisers are taken off.
      store: where what is fitted is kept, so that a later process takes the same.

    Raises:
      DivergedError: losses that are not finite.
    """
    store = store or NoStore()
    controls = make_controls(model, runner, control_variate)
    density, coefficients, calls, seconds = TimeDensity(), (), 0, 0.0
    if time_sampling == "importance" or controls:
        kept = store.read("pilot")
        if kept is None:
            started = time.perf_counter()
            pilot = draw_pilot(model, runner, controls, seed)
            coefficients = fit_coefficients(pilot.times, pilot.losses, pilot.controls)
            if time_sampling == "importance":
                losses = without_controls(pilot.losses, pilot.controls, coefficients, pilot.times)
                density = time_density.fit(pilot.times, losses)
            kept = {
                "density": np.asarray(density.knots, np.float64),
                "coefficients": np.asarray([each.knots for each in coefficients], np.float64),
                "seconds": np.asarray(time.perf_counter() - started),
            }
            store.write("pilot", kept)
        density = TimeDensity(tuple(kept["density"].tolist()))
        coefficients = tuple(Coefficient(tuple(row)) for row in kept["coefficients"].tolist())
        calls, seconds = time_density.pilot_size(len(runner.split.images)), float(kept["seconds"])
    controls = controls if coefficients else ()
    num_levels, num_dims = model.data.num_levels, model.data.num_dims
    put_back = np.zeros(len(runner.split.images))
    for control, coefficient in zip(controls, coefficients, strict=True):
        put_back += nats_to_bpd(control.put_back(coefficient), num_dims)
    gamma_0, gamma_1 = (float(model.gamma(runner.params, jnp.asarray(t))) for t in (0.0, 1.0))
    parts = (recon_table(gamma_0, num_levels), prior_table(gamma_1, num_levels))
    recon, latent = (nats_to_bpd(per_image(table, runner.split.images), num_dims) for table in parts)
    even = time_sampling == "importance"
    return Bound(model, runner, seed, density, coefficients, controls, put_back, recon, latent, even, calls, seconds)
