"""The parameters of a model by part, short enough to print at the start of a run."""

import re
from typing import Any

import jax


def parameter_table(params: Any) -> list[str]:
    """Return one line for each part of the network, like blocks together, and the total."""
    parts: dict[str, tuple[set[str], int, int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(key.key) for key in path]
        top = "/".join(names[:2]) if names[0] == "score_model" else names[0]
        kind = re.sub(r"_\d+$", "_*", top)
        members, arrays, size = parts.get(kind, (set(), 0, 0))
        parts[kind] = (members | {top}, arrays + 1, size + leaf.size)
    width = max(map(len, parts))
    lines = [
        f"{kind:<{width}}  {f'x{len(members)}':<5} {arrays:>5} arrays {size:>13,} parameters"
        for kind, (members, arrays, size) in parts.items()
    ]
    arrays, size = (sum(part[i] for part in parts.values()) for i in (1, 2))
    return [*lines, f"{'total':<{width}}  {'':5} {arrays:>5} arrays {size:>13,} parameters"]
