"""Points of the plane instead of images: the whole pipeline on a spiral, with a network of dense layers.

vdm prepare swirl --out DIR && vdm train swirl --data DIR --workdir RUN
"""

from vdm_lib.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    name="swirl",
    data=DataConfig(name="swirl", image_shape=(1, 1, 2)),
    model=ModelConfig(network="mlp", n_embd=64, n_layer=4, dropout=0.0, fourier_exponents=(0, 1, 2)),
    optim=OptimConfig(learning_rate=1e-3, lr_decay=True, ema_rate=0.99),
    train=TrainConfig(
        steps=4000, batch_size=512, log_every=100, checkpoint_every=1000, keep_checkpoints=3, sample_images=1024
    ),
    eval=EvalConfig(passes=16, batch_size=4000),
)
