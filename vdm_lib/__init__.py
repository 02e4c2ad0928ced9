"""Variational diffusion models (arXiv 2107.00630) by their likelihood, as a library.

    from vdm_lib import load

    model = load("bundles/cifar10")     # or a run directory
    images = model.sample(16, steps=250, seed=0)
    bpd = model.bpd(images, passes=8)

The modules say one thing each: `schedules` gamma(t) = -log SNR(t), `diffusion` the losses and the reverse step,
`likelihood` p(x | z_0), `unet` the network, `model` all of them together, `sampling`, `train`, `evaluate`, `export`.
What these are made of is in the folders: `evaluation`, `samplers`, `compression`, `files`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdm_lib.loading import LoadedModel as LoadedModel
    from vdm_lib.loading import load as load

# No `__all__`: pdoc would leave out the modules.
_LAZY = ("LoadedModel", "load")


def __getattr__(name: str) -> Any:
    # Flows and Beam jobs import modules of this package and must not load jax with it.
    if name in _LAZY:
        from vdm_lib import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
