"""How the images of a step reach the devices: a split that lies there already, or batches fetched ahead.

A feed has two halves. `inputs(step)` is what the host hands to the compiled step; `images(inputs)` is traced into
that step and gives the batch, split over the devices; `labels(inputs)` gives their labels, None where there are none.
All feeds give the same batches.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Integer, UInt8

from vdm_lib.batches import Batches
from vdm_lib.config import DataPlace
from vdm_lib.sharding import put_global, replicated, split_by_image
from vdm_lib.types import Images, Labels

# What a copy on every device may take where the memory of a device is not known, as on CPU.
_SMALL_BYTES = 512 * 2**20
_REPLICATED_SHARE, _SHARDED_SHARE = 1 / 16, 1 / 4
_BATCHES_AHEAD = 2


class ResidentImages:
    """A split in the memory of the devices: the host passes nothing but the indices of a step."""

    def __init__(self, images: UInt8[np.ndarray, "n h w c"], batches: Batches, mesh: Mesh, *, sharded: bool) -> None:
        """Copy the split to every device, or with `sharded` an equal part of it to each."""
        self._batches, self._mesh, self._sharded = batches, mesh, sharded
        num_images, *image_shape = images.shape
        rows = num_images + -num_images % mesh.size if sharded else num_images

        def part(index: tuple[slice, ...]) -> UInt8[np.ndarray, "n h w c"]:
            start, stop, _ = index[0].indices(rows)
            found = images[start:stop]
            # The devices hold equally many rows; what lies beyond the last image is never asked for.
            missing = stop - start - len(found)
            return np.pad(found, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else found

        sharding = split_by_image(mesh) if sharded else replicated(mesh)
        self._images = put_global((rows, *image_shape), sharding, part)

    def inputs(self, step: int) -> tuple[UInt8[Array, "n h w c"], Int[Array, " b"]]:
        """Return the split and the indices of a step."""
        indices = self._batches.indices_at(step).astype(np.int32)
        return self._images, put_global(indices.shape, replicated(self._mesh), lambda index: indices[index])

    def images(self, inputs: tuple[UInt8[Array, "n h w c"], Int[Array, " b"]]) -> Images:
        """Return the images of the indices."""
        if not self._sharded:
            return jax.lax.with_sharding_constraint(inputs[0][inputs[1]], split_by_image(self._mesh))
        by_image = PartitionSpec("data")
        gather = jax.shard_map(_gather, mesh=self._mesh, in_specs=(by_image, PartitionSpec()), out_specs=by_image)
        return gather(*inputs)

    def labels(self, inputs: tuple[UInt8[Array, "n h w c"], Int[Array, " b"]]) -> None:
        """Return None: images alone."""

    def close(self) -> None:
        """Nothing to let go of."""


def _gather(part: UInt8[Array, "n h w c"], indices: Int[Array, " b"]) -> Images:
    """Return this device's images of the batch: each device finds those it holds, and the sum is dealt out."""
    rows = part.shape[0]
    offsets = indices - jax.lax.axis_index("data") * rows
    mine = (offsets >= 0) & (offsets < rows)
    found = jnp.where(mine[:, None, None, None], part[jnp.where(mine, offsets, 0)], 0)
    return jax.lax.psum_scatter(found, "data", tiled=True)


class PrefetchedImages:
    """A split in the memory of the hosts: a thread puts the next batches onto the devices while one is used."""

    def __init__(self, images: UInt8[np.ndarray, "n h w c"], batches: Batches, mesh: Mesh) -> None:
        """Keep the split where it is; nothing is fetched yet."""
        self._images, self._batches, self._mesh = images, batches, mesh
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: dict[int, Future[Images]] = {}

    def inputs(self, step: int) -> Images:
        """Return the batch of a step; the two after it are fetched meanwhile."""
        for each in range(step, step + 1 + _BATCHES_AHEAD):
            if each not in self._ahead:
                self._ahead[each] = self._thread.submit(self._fetch, each)
        for past in [each for each in self._ahead if each < step]:
            del self._ahead[past]
        return self._ahead[step].result()

    def _fetch(self, step: int) -> Images:
        indices = self._batches.indices_at(step)
        shape = (len(indices), *self._images.shape[1:])
        # Each process gathers the rows of its own devices only.
        return put_global(shape, split_by_image(self._mesh), lambda index: self._images[indices[index[0]]])

    def images(self, inputs: Images) -> Images:
        """Return the batch as it is."""
        return inputs

    def labels(self, inputs: Images) -> None:
        """Return None: images alone."""

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


class LabelledImages:
    """Images of another feed and their labels, which are so small that the host passes them to each step."""

    def __init__(
        self,
        images: ResidentImages | PrefetchedImages,
        labels: Integer[np.ndarray, " n"],
        batches: Batches,
        mesh: Mesh,
    ) -> None:
        """Keep the labels where they are."""
        self._images, self._labels, self._batches, self._mesh = images, labels.astype(np.int32), batches, mesh

    def inputs(self, step: int) -> tuple[Any, Labels]:
        """Return what the images need, and the labels of a step."""
        labels = self._labels[self._batches.indices_at(step)]
        return self._images.inputs(step), put_global(
            labels.shape, split_by_image(self._mesh), lambda index: labels[index]
        )

    def images(self, inputs: tuple[Any, Labels]) -> Images:
        """Return the images of the other feed."""
        return self._images.images(inputs[0])

    def labels(self, inputs: tuple[Any, Labels]) -> Labels:
        """Return the labels as they are."""
        return inputs[1]

    def close(self) -> None:
        """Close the other feed."""
        self._images.close()


Feed = ResidentImages | PrefetchedImages | LabelledImages


def make_feed(
    images: UInt8[np.ndarray, "n h w c"],
    batches: Batches,
    mesh: Mesh,
    place: DataPlace,
    labels: Integer[np.ndarray, " n"] | None = None,
) -> Feed:
    """Return the feed for a place; `auto` chooses by size, see `choose_place`. With labels it gives those as well."""
    if labels is not None:
        return LabelledImages(_images_feed(images, batches, mesh, place), labels, batches, mesh)
    return _images_feed(images, batches, mesh, place)


def _images_feed(
    images: UInt8[np.ndarray, "n h w c"], batches: Batches, mesh: Mesh, place: DataPlace
) -> ResidentImages | PrefetchedImages:
    if place == "auto":
        place = choose_place(images.nbytes, mesh)
    if place == "host":
        return PrefetchedImages(images, batches, mesh)
    return ResidentImages(images, batches, mesh, sharded=place == "sharded")


def choose_place(num_bytes: int, mesh: Mesh) -> DataPlace:
    """Return where a split of a size is best kept.

    On every device if a copy takes at most 1/16 of its memory, else in equal parts if these take at most 1/4, else on
    the hosts. Where the memory of a device is not known: on every device up to 512 MiB, else in parts.
    """
    memory = device_memory_bytes(mesh)
    if num_bytes <= (_SMALL_BYTES if memory is None else _REPLICATED_SHARE * memory):
        return "replicated"
    if memory is None or num_bytes / mesh.size <= _SHARDED_SHARE * memory:
        return "sharded"
    return "host"


def device_memory_bytes(mesh: Mesh) -> int | None:
    """Return the memory that each device offers, None where it does not say (CPU)."""
    stats = mesh.local_devices[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
