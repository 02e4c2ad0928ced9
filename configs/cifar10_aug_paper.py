"""CIFAR-10 with flips, rotations and permuted channels, as in the paper: attention after every block.

Published: 2.49 bits/dim in the paper; no checkpoint was released and the hardware is not stated.

    vdm train cifar10_aug_paper --data DIR --workdir RUN
"""

from dataclasses import replace

from configs import cifar10_aug
from vdm_lib.config import OptimConfig

CONFIG = replace(
    cifar10_aug.CONFIG,
    name="cifar10_aug_paper",
    data=replace(cifar10_aug.CONFIG.data, augmentation="flip_rotate_channels"),
    # With attention after every block what is costly no longer fits a v5litepod-16.
    model=replace(cifar10_aug.CONFIG.model, with_attention=True, remat_keeps="nothing"),
    optim=OptimConfig(learning_rate=2e-4),
    train=replace(cifar10_aug.CONFIG.train, batch_size=1024),
)
