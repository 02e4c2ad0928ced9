"""Seconds, not results: the digits with the smallest network, for tests and for a first look.

vdm prepare digits --out DIR && vdm train debug --data DIR --workdir RUN
"""

from dataclasses import replace

from configs import digits
from vdm_lib.config import EvalConfig, TrainConfig

CONFIG = replace(
    digits.CONFIG,
    name="debug",
    train=TrainConfig(steps=6, batch_size=16, log_every=2, checkpoint_every=3, keep_checkpoints=3, sample_images=0),
    eval=EvalConfig(passes=2, batch_size=64),
)
