"""Named arrays in one file: all float32 numbers as four planes of bytes, which compress better than whole numbers."""

import json
import math
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]

# The two of four images, with and without conditioning, that are kept where each image stands by itself.
PAIR = slice(None, None, 3)


def save(path: Path, arrays: Arrays) -> None:
    """Write arrays of float32, uint8 and int32 to an .npz."""
    floats = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    joined = np.concatenate([array.reshape(-1) for array in floats.values()]).astype("<f4")
    np.savez_compressed(
        path,
        planes=np.ascontiguousarray(joined.view(np.uint8).reshape(-1, 4).T),
        shapes=np.asarray(json.dumps({name: array.shape for name, array in floats.items()})),
        **{name: array for name, array in arrays.items() if name not in floats},
    )


def load(path: Path) -> Arrays:
    """Return what `save` wrote, the float32 arrays first and in their order."""
    with np.load(path) as stored:
        others = {name: stored[name] for name in stored.files}
    shapes = json.loads(str(others.pop("shapes")))
    joined = np.ascontiguousarray(others.pop("planes").T).reshape(-1).view("<f4")
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    leaves = np.split(joined, ends[:-1])
    return {name: leaf.reshape(shape) for (name, shape), leaf in zip(shapes.items(), leaves, strict=True)} | others
