"""Run by test_devices.py on four forced devices: the same bound on 1, 2 and 4 of them, into an .npz file."""

import sys

import jax
import numpy as np
from jax.sharding import Mesh

import configs
from vdm_lib.bound import make_bound
from vdm_lib.data import Split
from vdm_lib.model import VDM
from vdm_lib.passes import Runner


def main(path: str) -> None:
    config = configs.load("debug", {"data.image_shape": [4, 4, 1]})
    model = VDM.from_config(config)
    params = jax.jit(model.init)(jax.random.key(0))
    # Away from zero-initialised layers, so that the network does something.
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    images = np.random.default_rng(0).integers(0, 17, (37, 4, 4, 1), np.uint8)
    split = Split("test", images, np.zeros(37, np.int64), 17, "0" * 64)
    results = {}
    for devices, batch_size in ((1, 37), (2, 10), (4, 6)):
        mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
        bound = make_bound(model, Runner(params, split, mesh, batch_size), 3, "importance")
        name = f"{devices} devices, batch {batch_size}"
        results[name] = np.stack([bound.one_pass(k) + bound.exact for k in range(2)])
        results[f"knots of {name}"] = np.asarray(bound.density.knots)
    np.savez(path, allow_pickle=False, **results)


if __name__ == "__main__":
    main(sys.argv[1])
