"""CIFAR-10 without augmentation, the model of Table 1 of arXiv 2107.00630.

Published: 2.65 bits/dim in the paper, 2.637 for the released checkpoint; 10 million steps on 8 TPU v3 chips.

    vdm train cifar10 --data DIR --workdir RUN
"""

from vdm_lib.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    name="cifar10",
    data=DataConfig(name="cifar10", image_shape=(32, 32, 3)),
    model=ModelConfig(n_embd=128, n_layer=32, dropout=0.1),
    optim=OptimConfig(learning_rate=2e-4),
    train=TrainConfig(steps=10_000_000, batch_size=128),
    eval=EvalConfig(batch_size=128),
)
