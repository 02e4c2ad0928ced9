"""CIFAR-10 with flips and rotations: the released variant, without attention and with a smaller batch.

Published: 2.522 bits/dim for the released checkpoint (batch 768, learning rate 1e-4), trained on a TPU v3-64.

    vdm train cifar10_aug --data DIR --workdir RUN
"""

from dataclasses import replace

from configs import cifar10
from vdm_lib.config import EvalConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = replace(
    cifar10.CONFIG,
    name="cifar10_aug",
    data=replace(cifar10.CONFIG.data, augmentation="flip_rotate"),
    # What remat keeps is what a v3, the published hardware, is the quickest with: docs/plans.md.
    model=ModelConfig(
        n_embd=256, n_layer=32, dropout=0.05, gamma_type="learnable_nnet", remat=True, remat_keeps="costly"
    ),
    optim=OptimConfig(learning_rate=1e-4),
    train=TrainConfig(steps=100_000_000, batch_size=768),
    eval=EvalConfig(batch_size=1024),
)
