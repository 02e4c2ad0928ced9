"""What XLA is told is what it does; of TPUs see tests/pipelines/test_plan.py."""

from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from vdm_lib.compiler import compiler_options, training_options
from vdm_lib.sharding import make_mesh


def _convolved(x, kernel):
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y, y.sum((1, 2))


def _entry(options: dict[str, str]) -> str:
    x, kernel = jnp.ones((8, 32, 32, 64)), jnp.ones((3, 3, 64, 64))
    return jax.jit(_convolved).lower(x, kernel).compile(options).as_text().split("ENTRY", 1)[1]


def test_only_sums_are_ynnpacks():
    told = _entry(compiler_options(make_mesh()))
    assert " convolution(" in told
    assert told.count("__ynn_fusion") == 1
    # Should this fail, the option has become superfluous.
    assert " convolution(" not in _entry({})


@pytest.mark.parametrize(
    ("kind", "small"), [("TPU v2", True), ("TPU v3", True), ("TPU v4", False), ("TPU v5 lite", False)]
)
def test_kernels_are_small_only_where_that_costs_little(kind, small):
    mesh = Mock(spec=Mesh, devices=np.array([SimpleNamespace(platform="tpu", device_kind=kind)]))
    assert ("xla_tpu_scoped_vmem_limit_kib" in training_options(mesh)) == small
    assert compiler_options(mesh).items() <= training_options(mesh).items()


def test_training_on_a_cpu_has_no_options_of_its_own():
    assert training_options(make_mesh()) == compiler_options(make_mesh())
