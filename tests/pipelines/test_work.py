import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from pipelines.planning.work import Work, count_work

LEFT, RIGHT = jax.ShapeDtypeStruct((8, 5), jnp.float32), jax.ShapeDtypeStruct((5, 3), jnp.float32)
PRODUCT = Work(flops=2.0 * 8 * 5 * 3, num_bytes=4.0 * (8 * 5 + 5 * 3 + 8 * 3))


def work_of(function, *arguments):
    return count_work(jax.make_jaxpr(function)(*arguments))


def test_a_product_reads_its_operands_once_and_adds_up_one_product_for_each_entry():
    assert work_of(lambda a, b: jnp.tanh(a @ b), LEFT, RIGHT) == PRODUCT


def test_a_loop_counts_as_often_as_it_turns():
    def thrice(a, b):
        return jax.lax.scan(lambda carry, _: (carry + a @ b, None), jnp.zeros((8, 3)), None, length=3)[0]

    assert work_of(thrice, LEFT, RIGHT) == Work(3 * PRODUCT.flops, 3 * PRODUCT.num_bytes)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_what_each_device_does_with_its_share_adds_up_to_the_whole(num_devices):
    split, whole = PartitionSpec("data"), PartitionSpec()
    mesh = AbstractMesh((num_devices,), ("data",))
    product = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(split, whole), out_specs=split)
    # Each device reads the second operand itself.
    read_again = 4.0 * (num_devices - 1) * 5 * 3
    assert work_of(product, LEFT, RIGHT) == Work(PRODUCT.flops, PRODUCT.num_bytes + read_again)


def test_a_convolution_without_padding_is_a_product_for_each_window():
    images, kernels = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 7), jnp.float32)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert work_of(convolve, images, kernels).flops == 2.0 * (2 * 4 * 4 * 7) * (3 * 3 * 3)
