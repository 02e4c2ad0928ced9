"""Build the files of this directory from the full arrays: python -m tests.golden.make ../shared/golden."""

import gzip
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.store import PAIR, Arrays, save

HERE = Path(__file__).parent
CONFIGS = ("cifar10", "cifar10_aug", "cifar10_aug_paper", "imagenet32", "imagenet64")
CROP = (slice(1), slice(4), slice(4))
CUTS = {
    r"in/(score_z|step_z|step_eps|gen_z0)|fourier_of_score_z_crop|score_eps_hat|step_i\d+_of_\d+|generate_x\w*": PAIR,
    r"in/z_0_rescaled": CROP,
    r"encode|z_t": slice(1),
}
# The images of a checkpoint's training run, a chain that needs the parameters of C, norms that updates hardly change.
LEFT_OUT = r"in/(ckpt|chain)_.*|chain_.*|.*/params_leaf_norms"
# What the diffusion loss is made from: given for C, whose network is not here; the losses of the others tell.
LEFT_OUT_BUT_IN_C = r"z_t|eps_hat|g_t|t|t_before_ceil"


def read(path: Path, prefix: str = "") -> Arrays:
    """Return the arrays of an .npz with a prefix before their names."""
    with np.load(path) as stored:
        return {prefix + name: stored[name] for name in stored.files}


def cut(name: str, array: np.ndarray) -> np.ndarray:
    """Return the part of an array that the tests use."""
    for pattern, part in CUTS.items():
        if re.fullmatch(pattern, name):
            return array[part]
    return array


def chosen(source: Path, variant: str) -> Arrays:
    """Return the arrays of one variant that the tests use; the parameters of C are too large."""
    arrays = read(source / variant / "inputs.npz", "in/") | read(source / variant / "outputs.npz")
    left_out = LEFT_OUT if variant == "C" else f"{LEFT_OUT}|{LEFT_OUT_BUT_IN_C}"
    kept = {name: cut(name, array) for name, array in arrays.items() if not re.fullmatch(left_out, name)}
    return kept if variant == "C" else read(source / variant / "params.npz") | kept


def without_root(leaves: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return (path, value) pairs as a dict, without the `params/` that every path starts with."""
    return {path.removeprefix("params/"): value for path, value in leaves}


def write_json(name: str, content: object) -> None:
    """Write compressed JSON, the same bytes for the same content."""
    (HERE / name).write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))


def main(source: Path) -> None:
    """Write every file of this directory that holds numbers."""
    variants = {variant: chosen(source, variant) for variant in "ABCD"}
    first = variants["A"]
    same = [
        name
        for name in first
        if all(name in arrays and np.array_equal(arrays[name], first[name]) for arrays in variants.values())
    ]
    learning_rates = read(source / "lr_schedules.npz", "lr/")
    save(HERE / "common.npz", {name: first[name] for name in same} | learning_rates)
    for variant, arrays in variants.items():
        save(HERE / f"{variant}.npz", {name: array for name, array in arrays.items() if name not in same})

    masks = {variant: json.loads((source / variant / "weight_decay_mask.json").read_text()) for variant in "ABCD"}
    write_json("decay_masks.json.gz", {variant: without_root(mask.items()) for variant, mask in masks.items()})
    trees = {name: json.loads((source / "param_trees" / f"{name}.json").read_text()) for name in CONFIGS}
    shapes = {name: without_root(leaf[:2] for leaf in tree["leaves"]) for name, tree in trees.items()}
    write_json("param_trees.json.gz", shapes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
