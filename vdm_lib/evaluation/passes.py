"""One pass of an evaluation: a function of each image, its index, its time and a key, over a whole split.

The noise of an image is a function of the key and its index, so neither the batch size nor the number of devices or
processes changes a result beyond float32 rounding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, Int, Integer, Shaped

from vdm_lib.compiler import compiler_options
from vdm_lib.data import Split
from vdm_lib.errors import DivergedError
from vdm_lib.sharding import replicated, split_by_image
from vdm_lib.types import Key, Labels, Levels, Params, PerImage

Estimate = Callable[[Params, Levels, Labels | None, jax.Array, PerImage, Key], PerImage]
"""(params, images, labels, indices, times, key) -> nats per image; hashable, so that it is compiled once."""

Arrays = dict[str, np.ndarray]


class OnePass(NamedTuple):
    """What one pass of an estimator found, in bits per dimension."""

    estimates: Float[np.ndarray, " n"]
    """An unbiased estimate for every image of what is not exact."""
    losses: Float[np.ndarray, " n"] | None = None
    """The diffusion loss that was drawn for every image, before anything is done to it; None if there is none."""


@runtime_checkable
class PassStore(Protocol):
    """Where what was measured survives the process that measured it."""

    def read(self, name: str) -> Arrays | None:
        """Return what was written under a name, None if there is nothing that can be used."""
        ...

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name."""
        ...


class NoStore:
    """Keeps nothing."""

    def read(self, name: str) -> Arrays | None:
        """Return None."""
        return None

    def write(self, name: str, arrays: Arrays) -> None:
        """Do nothing."""


def check_finite(values: Shaped[np.ndarray, " n"], what: str) -> None:
    """Raise DivergedError with the count and the first indices at which values are not finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        shown = ", ".join(str(index) for index in bad[:5])
        raise DivergedError(f"{bad.size} of {len(values)} {what} have no finite bpd: {shown}")


@dataclass(frozen=True, eq=False)
class Runner:
    """Applies estimates to images of a split with one set of parameters."""

    params: Params
    split: Split
    mesh: Mesh
    batch_size: int
    """Images per call of the network; padded so that the devices can share it evenly."""
    at_once: int = 0
    """Images of a batch that go through the network together, on one device; 0 takes all. It changes no result."""
    labels: Int[np.ndarray, " n"] | None = None
    """Class that a class-conditional model is told of each image; None tells none."""

    def __call__(
        self,
        estimate: Estimate,
        times: Float[np.ndarray, " n"],
        key: Key,
        indices: Integer[np.ndarray, " n"] | None = None,
    ) -> Float[np.ndarray, " n"]:
        """Return an estimate of every image, or of those at `indices`, each exactly once: nats, float64."""
        indices = np.arange(len(self.split.images)) if indices is None else indices
        batch_size = min(self.batch_size, len(indices))
        at_once = self.at_once if self.mesh.size == 1 and self.at_once < batch_size else 0
        compiled = _compiled(estimate, self.mesh, at_once)
        place = partial(_place, sharding=split_by_image(self.mesh))
        batch_size += -batch_size % (at_once or self.mesh.size)
        result, visits = np.full(len(indices), np.nan), np.zeros(len(indices), np.int64)
        for rows, count in _padded_batches(len(indices), batch_size):
            images, which = self.split.images[indices[rows]], indices[rows].astype(np.int32)
            labels = None if self.labels is None else place(self.labels[which])
            nats = compiled(self.params, place(images), labels, place(which), place(times[rows]), key)
            result[rows[:count]] = np.asarray(nats, np.float64)[:count]
            visits[rows[:count]] += 1
        if not np.all(visits == 1):
            raise AssertionError("an image was not evaluated exactly once")
        return result


@lru_cache(maxsize=32)
def _compiled(estimate: Estimate, mesh: Mesh, at_once: int) -> Callable[..., jax.Array]:
    whole, by_image = replicated(mesh), split_by_image(mesh)

    def full_precision(
        params: Params, images: jax.Array, labels: Labels | None, indices: jax.Array, times: jax.Array, key: Key
    ) -> PerImage:
        with jax.default_matmul_precision("float32"):
            if not at_once:
                return estimate(params, images, labels, indices, times, key)
            pieces = jax.tree.map(
                lambda each: each.reshape(-1, at_once, *each.shape[1:]), (images, labels, indices, times)
            )

            def one(piece: tuple[Any, ...]) -> PerImage:
                images, labels, indices, times = piece
                return estimate(params, images, labels, indices, times, key)

            return jax.lax.map(one, pieces).reshape(-1)

    # Every process gets the whole result, so each of them knows the number.
    return jax.jit(
        full_precision,
        in_shardings=(whole, by_image, by_image, by_image, by_image, whole),
        out_shardings=whole,
        compiler_options=compiler_options(mesh),
    )


def _place(values: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Return a batch that every process holds as an array of which each device holds its own part."""
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _padded_batches(num_images: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (rows of one batch, how many of them count); the last batch is filled up with its last row."""
    for start in range(0, num_images, batch_size):
        rows = np.arange(start, start + batch_size)
        yield np.minimum(rows, num_images - 1), min(batch_size, num_images - start)
