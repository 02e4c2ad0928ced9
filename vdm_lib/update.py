"""The second half of a training step: what the optimiser and the moving average make of a gradient.

Once the norm of the whole gradient is known no leaf depends on another. So on one CPU the update is a program for each
shape of layer, called for one layer after another: XLA's passes over a program of all 691 leaves of `cifar10` take
three times as long (benchmarks/NOTES.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.stages import Compiled

from vdm_lib.compiler import compiler_options
from vdm_lib.config import Config
from vdm_lib.layers import join_layers, split_layers
from vdm_lib.optim import learning_rate_schedule, make_optimizer, sum_of_squares, update_ema
from vdm_lib.sharding import replicated
from vdm_lib.state import TrainState
from vdm_lib.types import Metrics, Params, Scalar

UpdateStep = Callable[[TrainState, Params, Metrics], tuple[TrainState, Metrics]]


def update_step(config: Config) -> UpdateStep:
    """Return the second half of a step, (state, gradient, metrics) -> (state, metrics), to be called under jit.

    The metrics are those of `gradient_step`, of which it looks at bpd alone, with the norms of gradient, update and
    parameters before it, and the learning rate.
    """
    known_before, update = _known_before(config), _update(config)

    def step(state: TrainState, gradient: Params, metrics: Metrics) -> tuple[TrainState, Metrics]:
        before = known_before(state.step, [_squares(gradient, state.params)])
        state, of_updates = update(state, gradient, metrics["bpd"], before["gradient_norm"])
        return state, metrics | before | {"update_norm": _norm([of_updates])}

    return step


@dataclass(frozen=True)
class UpdateByLayer:
    """`update_step` as programs for one device.

    Attributes:
        step: the same function, not to be called under jit; it takes over the buffers of the state.
        programs: those that it calls for layers.
    """

    step: UpdateStep
    programs: tuple[Compiled, ...]


def compile_update_by_layer(config: Config, mesh: Mesh, state: TrainState) -> UpdateByLayer:
    """Compile the update of a state of these shapes; layers of one shape share their programs.

    Args:
      config: the experiment.
      mesh: the device.
      state: arrays or shapes; layers that are stacked are updated with what is in no layer.
    """
    jit = partial(jax.jit, compiler_options=compiler_options(mesh))
    # Said where it is: a program of such numbers alone would be made for jax's default device.
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    counters, layers = _counters(state), _layers(_trees(state))
    # All layers get the same counters, so that they are not given away to the first.
    squares, update = jit(_squares), jit(_update_of_layer(config), donate_argnums=0)
    of_shape: dict[Any, tuple[Compiled, Compiled]] = {}
    programs = {}
    for name, layer in layers.items():
        shape = _shape(layer)
        if shape not in of_shape:
            of_shape[shape] = (
                squares.lower(layer.params, layer.params).compile(),
                update.lower(layer, counters, layer.params, number, number).compile(),
            )
        programs[name] = of_shape[shape]
    known_before = jit(_known_before(config)).lower(state.step, [(number, number)] * len(layers)).compile()
    norm = jit(_norm).lower([number] * len(layers)).compile()

    def step(state: TrainState, gradient: Params, metrics: Metrics) -> tuple[TrainState, Metrics]:
        counters, layers, gradients = _counters(state), _layers(_trees(state)), split_layers(gradient)
        before = known_before(
            state.step, [programs[name][0](gradients[name], layer.params) for name, layer in layers.items()]
        )
        counted, of_updates = counters, []
        for name, layer in layers.items():
            layers[name], counted, of_update = programs[name][1](
                layer, counters, gradients[name], metrics["bpd"], before["gradient_norm"]
            )
            of_updates.append(of_update)
        return _merged(_joined(layers), counted), metrics | before | {"update_norm": norm(of_updates)}

    return UpdateByLayer(step, tuple(program for pair in of_shape.values() for program in pair))


def _known_before(config: Config) -> Callable[[Any, Sequence[tuple[Scalar, Scalar]]], Metrics]:
    """Return (step, sums of squares of gradient and parameters) -> what is known before the update."""
    learning_rate = learning_rate_schedule(config.optim, config.train.steps)

    def known_before(step: Any, squares: Sequence[tuple[Scalar, Scalar]]) -> Metrics:
        gradients, params = zip(*squares, strict=True)
        return {
            "gradient_norm": _norm(gradients),
            "parameter_norm": _norm(params),
            "learning_rate": jnp.asarray(learning_rate(step)),
        }

    return known_before


def _update(config: Config) -> Callable[[TrainState, Params, Scalar, Scalar], tuple[TrainState, Scalar]]:
    """Return (state, gradient, bpd, gradient_norm) -> (state, sum of squares of the update).

    State and gradient may be those of some leaves only, the norm is that of all.
    """
    optimizer = make_optimizer(config.optim, config.train.steps)

    def update(state: TrainState, gradient: Params, bpd: Scalar, gradient_norm: Scalar) -> tuple[TrainState, Scalar]:
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, gradient_norm=gradient_norm)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=update_ema(state.ema_params, params, config.optim.ema_rate),
            opt_state=opt_state,
        )
        if config.train.on_nan == "skip":
            usable = jnp.isfinite(bpd) & jnp.isfinite(gradient_norm)
            kept = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new_state, state)
            new_state = kept.replace(step=new_state.step)
        return new_state, sum_of_squares(updates)

    return update


def _update_of_layer(config: Config) -> Callable[..., tuple[TrainState, TrainState, Scalar]]:
    """Return `_update` of a layer and the counters, each a state without what is in the other."""
    update = _update(config)

    def update_of_layer(
        layer: TrainState, counters: TrainState, *gradient_and_numbers: Any
    ) -> tuple[TrainState, TrainState, Scalar]:
        state, squares = update(_merged(layer, counters), *gradient_and_numbers)
        return _trees(state), _counters(state), squares

    return update_of_layer


def _squares(gradient: Params, params: Params) -> tuple[Scalar, Scalar]:
    return sum_of_squares(gradient), sum_of_squares(params)


def _norm(squares: Sequence[Scalar]) -> Scalar:
    return jnp.sqrt(sum(squares))


def _is_tree(node: Any) -> bool:
    """Return whether this is a tree like that of the parameters, or the empty place of one or of a counter."""
    return node is None or isinstance(node, Mapping)


def _trees(state: TrainState) -> TrainState:
    """Return parameters, average and moments without the counters."""
    return jax.tree.map(lambda node: node if _is_tree(node) else None, state, is_leaf=_is_tree)


def _counters(state: TrainState) -> TrainState:
    """Return the numbers of updates made, without the trees."""
    return jax.tree.map(lambda node: None if _is_tree(node) else node, state, is_leaf=_is_tree)


def _merged(trees: TrainState, counters: TrainState) -> TrainState:
    return jax.tree.map(lambda tree, counter: counter if tree is None else tree, trees, counters, is_leaf=_is_tree)


def _layers(trees: TrainState) -> dict[str, TrainState]:
    """Return the trees of each layer, and under an empty name those of what is in no layer."""
    split = jax.tree.map(lambda tree: tree and split_layers(tree), trees, is_leaf=_is_tree)

    def of_layer(name: str) -> TrainState:
        return jax.tree.map(lambda of: of and of[name], split, is_leaf=_is_tree)

    return {name: of_layer(name) for name in split.params}


def _joined(layers: Mapping[str, TrainState]) -> TrainState:
    """Return the trees that `_layers` split."""

    def joined(*parts: Any) -> Any:
        return parts[0] and join_layers(dict(zip(layers, parts, strict=True)))

    return jax.tree.map(joined, *layers.values(), is_leaf=_is_tree)


def _shape(tree: Any) -> Any:
    """Return what is the same for trees that one program takes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
