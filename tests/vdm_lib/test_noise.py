"""Draws are those of jax.random and flax, number for number, whatever shape they are drawn in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_lib.noise import image_normals, keep_masks, normals
from vdm_lib.unet import kernel_normals

KEY = jax.random.key(3)
SHAPE = (5, 4, 3)


def test_normals_are_those_of_jax():
    np.testing.assert_array_equal(
        jax.jit(lambda: normals(KEY, (2, *SHAPE)))(), jax.random.normal(KEY, (2, *SHAPE)), strict=True
    )


def test_an_image_s_normals_depend_on_its_index_alone():
    drawn = image_normals(KEY, jnp.array([7, 0, 7]), SHAPE)
    np.testing.assert_array_equal(drawn[0], jax.random.normal(jax.random.fold_in(KEY, 7), SHAPE))
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert not np.any(drawn[0] == drawn[1])


@pytest.mark.parametrize("num", [(), (2,), (2, 3)])
def test_masks_are_those_of_jax(num: tuple[int, ...]):
    keys = jax.random.split(KEY, num) if num else KEY
    masks = keep_masks(keys, 0.2, SHAPE)
    assert masks.shape == (*num, *SHAPE)
    for index in np.ndindex(*num):
        np.testing.assert_array_equal(masks[index], jax.random.bernoulli(keys[index], 0.8, SHAPE), strict=True)


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (5, 6)])
def test_kernels_are_those_of_flax(shape: tuple[int, ...]):
    np.testing.assert_array_equal(kernel_normals(KEY, shape), nn.initializers.lecun_normal()(KEY, shape), strict=True)
