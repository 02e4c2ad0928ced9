"""The arithmetic of a training step, counted in its jaxpr: what a roofline needs, without compiling.

Counted are matrix products and convolutions, each reading its operands and writing its result once; everything
elementwise is taken to be fused into them. A loop counts as often as it turns, which the compiler's own count does not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.extend.core


@dataclass(frozen=True)
class Work:
    """Work of one step over all devices: floating point operations, and bytes to and from memory."""

    flops: float
    num_bytes: float


def count_work(jaxpr: jax.extend.core.ClosedJaxpr) -> Work:
    """Return the work of a traced function, over all devices."""
    flops = num_bytes = 0.0
    for equation, times in _equations(jaxpr.jaxpr, 1):
        flops += times * _flops(equation)
        variables = [*equation.invars, *equation.outvars]
        num_bytes += times * sum(variable.aval.size * variable.aval.dtype.itemsize for variable in variables)
    return Work(flops, num_bytes)


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """Yield the products and convolutions of a jaxpr and of those inside it, with the number of times they run."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation, times
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _equations(inner, times * _turns(equation))


def _turns(equation: Any) -> int:
    """Return how often what is inside an equation runs: in each turn of a loop, and on each device by itself."""
    if equation.primitive.name == "scan":
        return equation.params["length"]
    return equation.params["mesh"].size if equation.primitive.name == "shard_map" else 1


def _flops(equation: Any) -> float:
    out = equation.outvars[0].aval
    left, right = (variable.aval for variable in equation.invars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * out.size * math.prod(left.shape[axis] for axis in contracted)
    numbers = equation.params["dimension_numbers"]
    kernel = right.size / right.shape[numbers.rhs_spec[0]]
    # The zeros between the elements of a dilated operand and the groups of features cost nothing.
    return 2.0 * out.size * kernel / math.prod(equation.params["lhs_dilation"])
