"""ImageNet at 64x64.

Published: 3.40 bits/dim in the paper. The original's config of this name cannot run.

    vdm train imagenet64 --data DIR --workdir RUN
"""

from dataclasses import replace

from configs import imagenet32
from vdm_lib.config import DataConfig

CONFIG = replace(
    imagenet32.CONFIG,
    name="imagenet64",
    data=DataConfig(name="imagenet64", image_shape=(64, 64, 3)),
    model=replace(imagenet32.CONFIG.model, n_layer=64),
)
