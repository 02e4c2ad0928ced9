"""The layers of a network one by one, as checkpoints hold them, or stacked, as a loop over layers takes them.

One by one each layer has an entry of its own, `down.block_0`, `down.block_1` and so on; stacked there is one entry
`down.block`, each leaf of which has the layers as its first axis. Both forms hold the same numbers. The first layer in
the middle is of the shape of those on the way down, and is stacked as the last of them: a TPU's compiler takes seconds
for each convolution that is not in the loop.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_lib.types import Params

_LAYER = re.compile(r"((?:down|up)\.(?:block|attn))_(\d+)")
_STACK = re.compile(r"(?:down|up)\.(?:block|attn)")
_ANY_LAYER = re.compile(r"(?:down|mid|up)\.(?:block|attn)_\d+")
_NETWORK = "score_model"
_LAST = {"down.block": "mid.block_1", "down.attn": "mid.attn_1"}


def stack_layers(tree: Any) -> Any:
    """Return a tree with its layers stacked; what is stacked already, or is no layer, stays as it is.

    Args:
      tree: arrays, as tracers too; wherever in it a mapping has layers as entries, as in parameters, their moving
        average and the moments of an optimiser.
    """
    return _map_mappings(tree, _LAYER, _with_layers_stacked)


def unstack_layers(tree: Any) -> Any:
    """Return the tree that `stack_layers` made this one of."""
    return _map_mappings(tree, _STACK, _with_layers_apart)


def split_layers(params: Params) -> dict[str, Params]:
    """Return the parameters of each layer by its name, and under an empty name the tree of what is in no layer.

    Args:
      params: all parameters, or a tree like that.
    """
    layers = {name: entry for name, entry in params[_NETWORK].items() if _ANY_LAYER.fullmatch(name)}
    others = {name: entry for name, entry in params[_NETWORK].items() if name not in layers}
    return layers | {"": params | {_NETWORK: others}}


def join_layers(split: Mapping[str, Params]) -> Params:
    """Return the tree that `split_layers` made this of."""
    layers = dict(split)
    params = layers.pop("")
    return params | {_NETWORK: params[_NETWORK] | layers}


def _map_mappings(tree: Any, names: re.Pattern[str], change: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return a tree in which each mapping that has an entry of such a name is changed."""

    def named(node: Any) -> bool:
        return isinstance(node, Mapping) and any(names.fullmatch(str(name)) for name in node)

    return jax.tree.map(lambda node: change(node) if named(node) else node, tree, is_leaf=named)


def _with_layers_stacked(entries: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(entries)
    layers: dict[str, dict[int, Any]] = defaultdict(dict)
    for name in entries:
        if found := _LAYER.fullmatch(name):
            layers[found[1]][int(found[2])] = changed.pop(name)
    for name, numbered in layers.items():
        in_order = [numbered[i] for i in range(len(numbered))]
        if name in _LAST:
            in_order.append(changed.pop(_LAST[name]))
        changed[name] = jax.tree.map(lambda *leaves: _stack(leaves), *in_order)
    return changed


def _with_layers_apart(entries: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, entry in entries.items():
        if not _STACK.fullmatch(name):
            changed[name] = entry
            continue
        leaves, structure = jax.tree.flatten(entry)
        layers = [jax.tree.unflatten(structure, layer) for layer in zip(*map(_unstack, leaves), strict=True)]
        if name in _LAST:
            changed[_LAST[name]] = layers.pop()
        changed |= {f"{name}_{i}": layer for i, layer in enumerate(layers)}
    return changed


# Programs of one leaf each: one of all leaves of a state would take a TPU's compiler minutes.
_stack = jax.jit(jnp.stack)
_unstack = jax.jit(lambda leaf: [leaf[i] for i in range(leaf.shape[0])])
