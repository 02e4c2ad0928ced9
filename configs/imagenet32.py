"""ImageNet at 32x32.

Published: 3.72 bits/dim in the paper, on the old release of the data; the two releases are not comparable.

    vdm train imagenet32 --data DIR --workdir RUN
"""

from vdm_lib.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    name="imagenet32",
    data=DataConfig(name="imagenet32", image_shape=(32, 32, 3)),
    model=ModelConfig(n_embd=256, n_layer=32, dropout=0.1, remat=True),
    optim=OptimConfig(learning_rate=2e-4),
    train=TrainConfig(steps=10_000_000, batch_size=512),
)
