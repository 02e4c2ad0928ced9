"""The noise schedule of a checkpoint whose gamma(t) is no line; this module alone of the report loads jax."""

import numpy as np

from vdm_lib.config import Config
from vdm_lib.errors import CheckpointError
from vdm_lib.fields import schedule
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema


def gamma_of_checkpoint(workdir: str, config: Config) -> tuple[np.ndarray, np.ndarray] | None:
    """Return 101 times and gamma(t) of the newest checkpoint, None if the run has none."""
    try:
        params = restore_ema(workdir, config).params
    except CheckpointError:
        return None
    times, log_snr = schedule(VDM.from_config(config), params)
    return times, -log_snr
