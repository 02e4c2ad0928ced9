"""How noise becomes images: the choices of sampling; the mathematics is in `solvers`."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vdm_lib.errors import ConfigError

Solver = Literal["ancestral", "ddim", "dpm", "dpm_sde"]
Spacing = Literal["time", "log_snr"]
Decoding = Literal["argmax", "categorical"]
# Useful weights are below 10; far beyond, float32 overflows and pictures turn black.
_MOST_GUIDANCE = 1000


@dataclass(frozen=True)
class Sampler:
    """How noise becomes images."""

    solver: Solver = "ancestral"
    """Formulas (1) to (4) of `solvers`."""
    spacing: Spacing = "time"
    """What the steps divide evenly: the time t, or log SNR. For a schedule that is linear in t both are the same."""
    decoding: Decoding = "argmax"
    """The likeliest level of p(x | z_0), or a draw of it."""
    guidance: float = 0.0
    """w of class-free guidance, (1 + w) eps_hat(z, class) - w eps_hat(z, none): 0 is the class alone, -1 none."""

    def __post_init__(self) -> None:
        for name, kind in (("solver", Solver), ("spacing", Spacing), ("decoding", Decoding)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if not math.isfinite(self.guidance) or abs(self.guidance) > _MOST_GUIDANCE:
            raise ConfigError(f"guidance must lie in -{_MOST_GUIDANCE}..{_MOST_GUIDANCE}, got {self.guidance}")


FLOWS: tuple[Solver, ...] = ("ddim", "dpm")
"""Solvers that draw nothing but where they start, so that they lead back as well."""

ANCESTRAL = Sampler()
"""The original's."""
