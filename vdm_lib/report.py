"""What a measurement of bits per dimension says; imports nothing, so that flows can read it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BpdReport:
    """An upper bound on the negative log-likelihood of a split, in bits per dimension, with its errors."""

    step: int
    split: str
    bpd: float
    bpd_stderr: float
    """Monte Carlo standard error of bpd: from the times and the noise that were drawn, and in the protocol
    `reference` from the images that were drawn as well."""
    bpd_between_passes_stderr: float | None
    """The same error estimated from the spread of the passes; few passes estimate it badly."""
    bpd_test_set_stderr: float | None
    """Standard error of the mean over images: the split seen as a draw from all images."""
    bpd_recon: float
    bpd_latent: float
    bpd_diff: float
    protocol: str
    """How the images were drawn: every_image of the split in every pass, or as the reference draws them."""
    num_images: int
    """Images in one pass; the protocol `reference` draws some of them several times and others not at all."""
    passes: int
    timesteps: int
    """Steps T of the bound; 0 is continuous time."""
    params: str
    """Which parameters: ema or raw."""
    seed: int
    matmul_precision: str
    data_fingerprint: str

    def __str__(self) -> str:
        """Return one line, rounded by the error: `2.637 ± 0.004 bits/dim (...)`."""
        digits = max(2, 1 - math.floor(math.log10(self.bpd_stderr))) if self.bpd_stderr > 0 else 4
        if self.bpd_test_set_stderr is None:
            how = f"{self.num_images} draws of {self.split} images by the {self.protocol} protocol"
            error = ""
        else:
            how = f"{self.num_images} {self.split} images x {self.passes} passes"
            error = f"; ± {self.bpd_test_set_stderr:.{digits}f} for another test set"
        return f"{self.bpd:.{digits}f} ± {self.bpd_stderr:.{digits}f} bits/dim ({how}, {self.params} parameters{error})"
