"""Where arrays live: one mesh axis `data` over all devices of all processes; batches are split along it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdm_lib.config import Sharding
from vdm_lib.errors import MachineError
from vdm_lib.state import TrainState


def make_mesh() -> Mesh:
    """Return the mesh of all devices, one axis named `data`."""
    return Mesh(np.asarray(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_image(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis, the images of a batch, over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_longest_axis(tree: Any, mesh: Mesh) -> Any:
    """Return a sharding for each leaf: its longest axis that the devices divide is split, others are replicated."""

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length and length % mesh.size == 0]
        if not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))

    return jax.tree.map(sharding, tree)


def state_shardings(state: TrainState, mesh: Mesh, shard: Sharding) -> TrainState:
    """Return the sharding of each array of a state, given its shapes.

    `replicated` keeps everything on every device; `zero` splits the moments and the moving average over the devices
    and keeps the parameters whole (ZeRO stage 1, arXiv 1910.02054).
    """
    whole = jax.tree.map(lambda _: replicated(mesh), state)
    if shard == "replicated":
        return whole
    return whole.replace(  # type: ignore[attr-defined]
        ema_params=split_longest_axis(state.ema_params, mesh), opt_state=split_longest_axis(state.opt_state, mesh)
    )


def mean_over_devices(function: Callable[[Any, Any], Any], params: Any, batch: Any, mesh: Mesh) -> Any:
    """Return the mean over the devices of function(params, the device's own images).

    Each device forms its whole result before anything is added up, in the type that the result has: one reduction a
    step, whatever loops are inside, and gradients are never added up in bfloat16.

    Args:
      function: returns a tree of arrays, each a mean over the images that it is given.
      params: tree of arrays, whole on every device while the function runs.
      batch: tree of arrays with the images as their first axis, split over the devices.
      mesh: the devices.
    """
    if mesh.size == 1:
        return function(params, batch)

    def of_device(params: Any, batch: Any) -> Any:
        return jax.lax.pmean(function(params, batch), "data")

    whole, split = PartitionSpec(), PartitionSpec("data")
    # What varies between devices is not checked: the networks' loops begin with zeros, which do not.
    mapped = jax.shard_map(of_device, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)
    return mapped(params, batch)


def put_global(shape: tuple[int, ...], sharding: NamedSharding, part: Callable[[Any], np.ndarray]) -> jax.Array:
    """Return an array over all processes; each asks `part(index)` for what its own devices hold of it."""
    return jax.make_array_from_callback(shape, sharding, part)


def check_divisible(batch_size: int, mesh: Mesh, key: str, parts: int = 1) -> None:
    """Raise MachineError, naming the config key, if the devices cannot share each part of a batch evenly."""
    unit = mesh.size * parts
    if batch_size % unit:
        over = f"{mesh.size} devices" + (f" x {parts} microbatches" if parts > 1 else "")
        raise MachineError(f"{key}={batch_size} does not divide over {over}: use a multiple of {unit}")
