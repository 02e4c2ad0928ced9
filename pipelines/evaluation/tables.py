"""The terms of each image in each pass, as the columns of a Parquet file."""

import numpy as np

from vdm_lib.evaluate import Estimator, Measurement
from vdm_lib.evaluation.bound import Bound


def columns_of(estimator: Estimator, measured: Measurement) -> dict[str, np.ndarray]:
    """Return columns of passes x images rows, pass after pass.

    `pass` and `image` count from 0; `bpd` is the estimate of this image in this pass. For the bound there are also
    its three parts, the time t, the weight 1 / q(t) that is in bpd_diff already, and the diffusion loss as it was
    drawn, without weight and control variates. The mean of `bpd` over all rows is the report's bpd.
    """
    passes, num_images = measured.estimates.shape
    columns: dict[str, np.ndarray] = {
        "pass": np.repeat(np.arange(passes, dtype=np.int32), num_images),
        "image": np.tile(np.arange(num_images, dtype=np.int32), passes),
        "bpd": (measured.estimates + estimator.exact).reshape(-1),
    }
    if isinstance(estimator, Bound):
        times = np.concatenate([estimator.times(k) for k in range(passes)])
        columns["bpd_recon"] = np.tile(estimator.recon, passes)
        columns["bpd_latent"] = np.tile(estimator.latent, passes)
        columns["bpd_diff"] = measured.estimates.reshape(-1)
        columns["t"] = times
        columns["weight"] = 1.0 / estimator.density.at(times)
        if measured.losses is not None:
            columns["loss"] = measured.losses.reshape(-1)
    return columns
