from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

from vdm_lib.augment import augment

NUM = 2000
# Every pixel of every channel differs, so each variation gives another image.
IMAGE = np.arange(3 * 3 * 3, dtype=np.uint8).reshape(3, 3, 3)
IMAGES = jnp.asarray(np.broadcast_to(IMAGE, (NUM, *IMAGE.shape)))


def variations(*, permute):
    """Image -> (flipped, quarter turns, order of channels)."""
    table = {}
    for flipped in (False, True):
        for turns in range(4):
            for order in permutations(range(3)) if permute else [(0, 1, 2)]:
                image = np.rot90(IMAGE[:, ::-1] if flipped else IMAGE, turns)[:, :, list(order)]
                table[image.tobytes()] = (flipped, turns, order)
    return table


def draw(augmentation):
    images, flags = augment(jax.random.key(7), IMAGES, augmentation)
    table = variations(permute=augmentation == "flip_rotate_channels")
    assert images.dtype == jnp.uint8
    # A KeyError here is an image that no variation gives.
    return [table[np.asarray(image).tobytes()] for image in np.asarray(images)], np.asarray(flags)


def assert_share(hits, share):
    assert binomtest(int(np.sum(hits)), len(hits), share).pvalue > 1e-4


def test_none_is_the_identity():
    images, flags = augment(jax.random.key(0), IMAGES, "none")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(flags, np.zeros(NUM))


def test_flips_and_rotations():
    drawn, flags = draw("flip_rotate")
    flipped = np.array([flip for flip, _, _ in drawn])
    turns = np.array([turn for _, turn, _ in drawn])
    assert len(set(drawn)) == 8
    assert_share(flipped, 1 / 2)
    assert_share(turns > 0, 1 / 2)
    for number in (1, 2, 3):
        assert_share(turns == number, 1 / 6)
    assert_share(flipped & (turns > 0), 1 / 4)
    np.testing.assert_array_equal(flags, flipped | (turns > 0))


def test_permuted_channels():
    drawn, flags = draw("flip_rotate_channels")
    touched = np.array([entry != (False, 0, (0, 1, 2)) for entry in drawn])
    orders = [order for _, _, order in drawn]
    assert len(set(drawn)) == 48
    for order in permutations(range(3)):
        # Half of the images are permuted, by each of the six permutations alike, the identity included.
        assert_share([drawn_order == order for drawn_order in orders], 1 / 12 + (order == (0, 1, 2)) / 2)
    # The flag tells the branch, not the result: the identity permutation is flagged too.
    assert np.all(flags[touched] == 1)
    assert_share(flags, 7 / 8)
    assert_share(touched, 1 - (1 / 4) * (1 / 12 + 1 / 2))


@pytest.mark.parametrize("augmentation", ["flip_rotate", "flip_rotate_channels"])
def test_depends_on_the_key_only(augmentation):
    once, flags = augment(jax.random.key(1), IMAGES, augmentation)
    again, flags_again = augment(jax.random.key(1), IMAGES, augmentation)
    other, _ = augment(jax.random.key(2), IMAGES, augmentation)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(flags, flags_again)
    assert np.any(np.asarray(once) != np.asarray(other))
