"""Where arrays live: one mesh axis `data` over all devices, batches split along it, the state on every device."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdm_lib.errors import ConfigError


def make_mesh() -> Mesh:
    """Return the mesh of all devices, one axis named `data`."""
    return Mesh(np.asarray(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_image(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis, the images of a batch, over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_divisible(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raise ConfigError, naming the config key, if the devices cannot share a batch evenly."""
    if batch_size % mesh.size:
        raise ConfigError(f"{key}={batch_size} does not divide over {mesh.size} devices: use a multiple of {mesh.size}")
