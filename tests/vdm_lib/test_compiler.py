"""What XLA is told is what it does; of TPUs see tests/pipelines/test_plan.py."""

import jax
import jax.numpy as jnp

from vdm_lib.compiler import compiler_options
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
