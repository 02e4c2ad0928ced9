"""What a measurement of bits per dimension says; imports no arrays, so that flows can read it."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from vdm_lib.errors import CheckpointError

SCHEMA_VERSION = 2
"""Version 1 had no digest, code version, times of the measurement, or noise levels."""


@dataclass(frozen=True, kw_only=True)
class NoiseLevel:
    """One range of gamma = -log SNR: what it adds to the diffusion loss, and the rate and distortion below it."""

    gamma_from: float
    gamma_to: float
    bpd: float
    """Part of bpd_diff that lies in this range; the ranges add up to bpd_diff."""
    bpd_stderr: float
    """Its Monte Carlo standard error."""
    rate_bpd: float
    """Bits per dimension that tell the image down to gamma_from: bpd_latent and the ranges from here to the noise."""
    distortion_rmse: float | None
    """Root mean square error, in levels, of the image that the network sees in this range; None without a draw."""


@dataclass(frozen=True, kw_only=True)
class BpdReport:
    """An upper bound on the negative log-likelihood of a split, in bits per dimension, with its errors."""

    schema_version: int = SCHEMA_VERSION
    """Version of these fields."""
    step: int
    """Updates behind the checkpoint."""
    split: str
    """Which images: test or train."""
    bpd: float
    """Mean over images and passes."""
    bpd_stderr: float
    """Monte Carlo standard error of bpd: from the times and the noise that were drawn, and in the protocol
    `reference` from the images that were drawn as well."""
    bpd_between_passes_stderr: float | None
    """The same error estimated from the spread of the passes; few passes estimate it badly."""
    bpd_test_set_stderr: float | None
    """Standard error from the images: the split seen as a draw from all images. The Monte Carlo error is not in it."""
    bpd_recon: float | None
    """First part, -log p(x | z_0); in the protocol every_image its exact expectation. None for other estimators."""
    bpd_latent: float | None
    """Second part, KL(q(z_1 | x) || N(0, I)), exact."""
    bpd_diff: float | None
    """Third part, the diffusion loss; the parts add up to bpd."""
    var_bpd: float | None = None
    """Variance of one estimate of the bound of one image, drawn as in training: one uniform time, one draw of the
    noise, no control variate; over images, times and noise. None for other estimators and protocols."""
    var_bpd_stderr: float | None = None
    """Its standard error."""
    var_bpd_by_time: tuple[float, ...] = ()
    """Mean square distance of such estimates from bpd in equal ranges of time from 0 to 1; the mean is var_bpd."""
    protocol: str
    """How the images were drawn: every_image of the split in every pass, or as the reference draws them."""
    estimator: str
    """What was estimated: the variational bound, the importance_weighted bound, or by the ode."""
    estimator_settings: str
    """What else the estimator depends on, such as its samples or its solver; empty for the bound."""
    num_images: int
    """Images in one pass; the protocol `reference` draws some of them several times and others not at all."""
    passes: int
    """Passes over the split."""
    network_calls: int | None
    """Evaluations of the network, one image each, the pilot of the density of times with them; the derivative that
    the ode takes with each is not counted. None where a solver chooses its steps."""
    timesteps: int
    """Steps T of the bound; 0 is continuous time."""
    schedule: str = "own"
    """Way of gamma between the end points: the model's own or a fixed one. In continuous time bpd is the same."""
    labels: str = ""
    """What a class-conditional model was told of each image: its label (given) or nothing (none); empty for others."""
    time_sampling: str
    """Density of the times: importance or uniform; `none` where no time is drawn."""
    time_density: tuple[float, ...]
    """The density at equally spaced times from 0 to 1, linear between them; empty where it is uniform."""
    control_coefficients: tuple[float, ...]
    """What the control variate of the linear denoiser was multiplied with, at equally spaced times; empty where there
    was none."""
    image_control_coefficients: tuple[float, ...] = ()
    """The same of what that denoiser loses on one image more than on the average one."""
    level_control_coefficients: tuple[float, ...] = ()
    """The same of the control variate of the denoiser that knows the levels."""
    target_stderr: float | None
    """The Monte Carlo error that was asked for."""
    params: str
    """Which parameters: ema or raw."""
    seed: int
    """Seed of times and noise."""
    dtype: str
    """Type of parameters and activations."""
    matmul_precision: str
    """Precision of matrix products and convolutions."""
    data_fingerprint: str
    """SHA-256 over the ordered images and labels of the split."""
    checkpoint_digest: str
    """SHA-256 over the parameters that were measured, names and bytes."""
    code_version: str
    """Version of this package and, where there is one, the commit."""
    seconds: float
    """Wall time of all passes, compilation included; of a continued evaluation, over all calls."""
    images_per_s: float
    """Images times passes, and those of the pilot, per second."""
    noise_levels: tuple[NoiseLevel, ...]
    """The diffusion loss by noise level, least noise first; empty for other estimators and protocols."""

    @classmethod
    def from_fields(cls, values: Any, origin: str) -> "BpdReport":
        """Return the report that the JSON object `values` holds.

        Raises:
          CheckpointError: another schema version, or fields that are no report; the message names `origin`.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{origin} is no report of this version (no object): {_REMEDY}")
        version = values.get("schema_version", 1)
        if "bpd" in values and version != SCHEMA_VERSION:
            raise CheckpointError(
                f"{origin} is no report of this version (it has schema version {version}, "
                f"this program reads {SCHEMA_VERSION}): {_REMEDY}"
            )
        try:
            for level in values["noise_levels"]:
                _check_types(NoiseLevel, level)
            levels = tuple(NoiseLevel(**level) for level in values["noise_levels"])
            knots = {name: tuple(values[name]) for name in ("time_density", "control_coefficients")}
            # Reports of earlier versions of the same schema do not have them.
            for name in ("image_control_coefficients", "level_control_coefficients", "var_bpd_by_time"):
                knots[name] = tuple(values.get(name, ()))
            filled = {**values, **knots, "noise_levels": levels}
            _check_types(cls, filled)
            return cls(**filled)
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{origin} is no report of this version ({error}): {_REMEDY}") from error

    def __str__(self) -> str:
        """Return one line, rounded by the error: `2.637 ± 0.004 bits/dim (...)`."""
        digits = digits_of(self.bpd_stderr)
        if self.protocol == "reference":
            how = f"{self.num_images} draws of {self.split} images by the {self.protocol} protocol"
        else:
            how = f"{self.num_images} {self.split} images x {self.passes} passes"
        words = [how]
        if self.estimator != "bound":
            words.append(f"{self.estimator.replace('_', ' ')}, {self.estimator_settings}")
        if self.labels:
            words.append("given the labels" if self.labels == "given" else "without labels")
        if self.schedule != "own":
            words.append(f"schedule {self.schedule}")
        if self.timesteps:
            words.append(f"{self.timesteps} steps")
        words.append(f"{self.params} parameters")
        error = ""
        if self.bpd_test_set_stderr is not None:
            error = f"; ± {self.bpd_test_set_stderr:.{digits}f} for another test set"
        if self.target_stderr is not None and self.bpd_stderr > self.target_stderr:
            error += f"; target ± {self.target_stderr:g} not reached within eval.max_passes"
        return f"{with_error(self.bpd, self.bpd_stderr)} bits/dim ({', '.join(words)}{error})"


def _check_types(form: type, values: Mapping[str, Any]) -> None:
    """Raise TypeError at the first field that is not of its type; a number that is not finite is none."""
    for name, kind in get_type_hints(form).items():
        if name in values and not _is_of(values[name], kind):
            one = get_args(kind)[0] if isinstance(kind, UnionType) else kind
            raise TypeError(f"{name} is no {_WORDS.get(one, 'list of numbers')}")


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(each, get_args(kind)[0]) for each in value)
    if kind is float:
        return _is_of(value, int) or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        # A whole number that no float64 holds would overflow where it is printed.
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


_WORDS = {int: "whole number", float: "number", str: "text"}
_REMEDY = "measure again with `vdm eval --force`"

FIELD_NAMES = tuple(field.name for field in fields(BpdReport))


def digits_of(error: float) -> int:
    """Return the decimals of a number with this standard error: one digit of it, two if that is a 1; at least 2."""
    if not 0.0 < error < math.inf:
        return 4
    exponent = math.floor(math.log10(error))
    leading = error / 10.0**exponent
    return max(2, -exponent + (1 if leading < 1.95 else 0))


def with_error(value: float, error: float) -> str:
    """Return `2.637 ± 0.004`."""
    digits = digits_of(error)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
