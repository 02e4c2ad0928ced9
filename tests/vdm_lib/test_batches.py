import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm_lib.batches import Batches

GOLDEN_ORDER = [2, 0, 1, 4, 5, 6, 7, 8, 3, 9]


@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_every_epoch_covers_every_image_once(num_images, batch_size, seed):
    batches = Batches(num_images, batch_size, seed)
    stream = np.concatenate([batches.indices_at(step) for step in range(3 * num_images)])
    epochs = len(stream) // num_images
    for epoch in stream[: epochs * num_images].reshape(epochs, num_images):
        assert sorted(epoch) == list(range(num_images))


@given(st.integers(0, 1000), st.integers(1, 70))
def test_a_batch_depends_on_seed_and_step_only(step, batch_size):
    first = Batches(64, batch_size, 3).indices_at(step)
    Batches(64, batch_size, 4).indices_at(7)
    again = Batches(64, batch_size, 3).indices_at(step)
    assert first.dtype == np.int64
    assert first.shape == (batch_size,)
    np.testing.assert_array_equal(first, again)


def test_the_batch_size_does_not_change_the_stream():
    wide = Batches(7, 6, 0)
    narrow = Batches(7, 2, 0)
    left = np.concatenate([wide.indices_at(step) for step in range(5)])
    right = np.concatenate([narrow.indices_at(step) for step in range(15)])
    np.testing.assert_array_equal(left, right)


def test_the_order_is_the_same_for_ever():
    assert Batches(10, 10, 1).indices_at(0).tolist() == GOLDEN_ORDER
    assert Batches(10, 10, 1).indices_at(1).tolist() != GOLDEN_ORDER
    assert Batches(10, 10, 2).indices_at(0).tolist() != GOLDEN_ORDER


def test_the_caller_may_write_into_a_batch_without_changing_the_next():
    batches = Batches(10, 10, 1)
    batches.indices_at(0)[:] = -1
    assert batches.indices_at(0).tolist() == GOLDEN_ORDER


def test_bad_arguments():
    for arguments in ((0, 1, 0), (1, 0, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="must be positive"):
            Batches(*arguments)
    with pytest.raises(ValueError, match="step must not be negative"):
        Batches(1, 1, 0).indices_at(-1)
