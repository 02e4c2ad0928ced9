import jax
import numpy as np
import pytest

from vdm_lib import feed
from vdm_lib.batches import Batches
from vdm_lib.errors import MachineError
from vdm_lib.sharding import check_divisible, make_mesh

MESH = make_mesh()
IMAGES = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 3)).astype(np.uint8)
BATCHES = Batches(len(IMAGES), 8, 5)


@pytest.mark.parametrize("place", ["auto", "replicated", "sharded", "host"])
def test_every_feed_gives_the_images_of_the_step(place):
    each = feed.make_feed(IMAGES, BATCHES, MESH, place)
    images = jax.jit(each.images)
    # Forward, across the border of an epoch, again, and back: a resumed run may begin anywhere.
    for step in (0, 1, 2, 3, 3, 40, 7):
        np.testing.assert_array_equal(images(each.inputs(step)), IMAGES[BATCHES.indices_at(step)])
    each.close()


@pytest.mark.parametrize(
    ("memory", "num_bytes", "place"),
    [
        # CIFAR-10 on anything; ImageNet 64x64, 15.7 GB, on CPU; the same on one device of 16 and of 80 GB.
        (None, 154e6, "replicated"), (16e9, 154e6, "replicated"), (None, 15.7e9, "sharded"), (16e9, 15.7e9, "host"),
        (80e9, 15.7e9, "sharded"),
    ],
)  # fmt: skip
def test_the_place_goes_by_size(monkeypatch, memory, num_bytes, place):
    monkeypatch.setattr(feed, "device_memory_bytes", lambda mesh: memory)
    assert feed.choose_place(int(num_bytes), MESH) == place


def test_a_failed_fetch_is_raised_where_the_batch_is_asked_for():
    ahead = feed.PrefetchedImages(IMAGES[:5], BATCHES, MESH)
    with pytest.raises(IndexError):
        for step in range(4):
            ahead.inputs(step)
    ahead.close()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(MachineError, match=r"train.batch_size=9 does not divide over 1 devices x 2 microbatches"):
        check_divisible(9, MESH, "train.batch_size", 2)
