"""The job `vdm info`: what a config means in parameters and bytes, without making any array."""

import jax
from flax.traverse_util import flatten_dict

from pipelines.results import InfoResult, LeafInfo
from vdm_lib.config import Config
from vdm_lib.model import VDM, count_params

# Parameters, their average and two moments, float32 each.
_CHECKPOINT_BYTES_PER_PARAM = 16


def run(config: Config) -> InfoResult:
    """Return the parameters of a config by the names of google-research/vdm, and what they add up to."""
    shapes = jax.eval_shape(VDM.from_config(config).init, jax.random.key(0))
    total = count_params(shapes)
    leaves = flatten_dict({"params": shapes}, sep="/")
    return InfoResult(
        config=config.name,
        total=total,
        num_leaves=len(leaves),
        checkpoint_bytes=total * _CHECKPOINT_BYTES_PER_PARAM,
        dims_per_image=config.data.num_dims,
        parameters={path: LeafInfo(list(leaf.shape), str(leaf.dtype)) for path, leaf in sorted(leaves.items())},
    )
