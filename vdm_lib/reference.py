"""Checkpoints of google-research/vdm, read and written without TensorFlow or clu.

Its directory (`checkpoints-0`) holds a text file `checkpoint`, which names the newest checkpoint, and for each
checkpoint a `ckpt-N.flax` with everything beside two small TensorFlow files. The .flax file is one msgpack map
{ema_params, opt_state, params, step}; an array is a msgpack extension of type 1: [shape, dtype name, raw bytes].
N counts the savings, it is not the step.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_lib.errors import CheckpointError
from vdm_lib.files.new_directory import new_directory
from vdm_lib.gamma_types import other_gamma_type
from vdm_lib.state import TrainState
from vdm_lib.types import Params

_ARRAY_EXTENSION = 1
_DTYPES = ("float32", "int32")
_READ_BYTES = 1 << 20
_KEYS = ("ema_params", "opt_state", "params", "step")

# What TensorFlow writes beside the .flax file for the first checkpoint of a directory: the number of savings, 1, and
# checksums. The original asks for both files before it reads the .flax file.
_TENSORFLOW_FILES = {
    "index": base64.b64decode(
        "AAAGCAEaAggBABwNX0NIRUNLUE9JTlRBQkxFX09CSkVDVF9HUkFQSAgHEgAgCChsNeJmjpgAJwtzYXZlX2NvdW50ZXIvLkFUVFJJ"
        "QlVURVMvVkFSSUFCTEVfVkFMVUUICRIAKAg1AXXeQQAAAAABAAAAAGlqwKAAAAAAAQAAAADA8qGwAAECdAByAAAAAAEAAAAAj75u"
        "n3cIhAEOAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABX+4CLJHVH2w=="
    ),
    "data-00000-of-00001": base64.b64decode(
        "AQAAAAAAAABnoUZFEwoWChAIARIMc2F2ZV9jb3VudGVyKgIIAQpNEkcKDlZBUklBQkxFX1ZBTFVFEgxzYXZlX2NvdW50ZXIaJ3Nh"
        "dmVfY291bnRlci8uQVRUUklCVVRFUy9WQVJJQUJMRV9WQUxVRSoCCAE="
    ),
}


@dataclass(frozen=True)
class ReferenceModel:
    """What the original's evaluation takes from a checkpoint."""

    step: int
    ema_params: Params


def find(source: str) -> epath.Path:
    """Return the .flax file that a source means.

    Args:
      source: the directory with the file `checkpoint`, whose newest checkpoint is meant, or a checkpoint in it
        without its extension, such as `checkpoints-0/ckpt-2`; local or gs://.

    Raises:
      CheckpointError: no such directory, file or checkpoint.
    """
    path = epath.Path(source)
    if not path.is_dir():
        file = path if path.suffix == ".flax" else path.parent / f"{path.name}.flax"
        if not file.exists():
            known = sorted(other.name.removesuffix(".flax") for other in path.parent.glob("*.flax"))
            there = f"{path.parent} holds: {', '.join(known)}" if known else "give checkpoints-0 or a .flax file"
            raise CheckpointError(f"no checkpoint {source}; {there}")
        return file
    index = path / "checkpoint"
    if not index.exists():
        raise CheckpointError(
            f"{source} has no file `checkpoint`, which names the newest one: give the directory checkpoints-0 of a "
            "run of google-research/vdm, or one checkpoint in it such as checkpoints-0/ckpt-1"
        )
    named = re.search(r'^model_checkpoint_path: "([^"]+)"', index.read_bytes().decode(errors="replace"), re.MULTILINE)
    if named is None:
        raise CheckpointError(f"{index} names no model_checkpoint_path: it is damaged or of another program")
    file = path / f"{epath.Path(named.group(1)).name}.flax"
    if not file.exists():
        raise CheckpointError(f"{index} names {file.name}, which is not there")
    return file


def read_model(source: str, expected: Params) -> ReferenceModel:
    """Return the step and the EMA parameters, float32; the rest of the file is skipped.

    Args:
      source: as `find` takes it.
      expected: parameters of the model it should be, arrays or shapes.

    Raises:
      CheckpointError: as `find`; a file that is cut off or is no checkpoint; one of another architecture, with the
        first leaf that differs and both shapes.
    """
    file = find(source)
    values = _read(file, ("step", "ema_params"), _to_array)
    return ReferenceModel(int(values["step"]), _as_expected(values["ema_params"], expected, str(file)))


def read_shapes(source: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path joined with '/'; the arrays themselves are not kept.

    Raises:
      CheckpointError: as `find`, or a file that is cut off or is no checkpoint.
    """
    found: dict[str, Any] = dict(flatten_dict(_read(find(source), ("params",), _to_shape)["params"], sep="/"))
    # flax before 0.3.6 kept the scale and bias of a GroupNorm as (1, 1, 1, c).
    return {
        path: shape[3:] if len(shape) == 4 and shape[:3] == (1, 1, 1) and path.endswith(("/scale", "/bias")) else shape
        for path, shape in found.items()
    }


def read_state(source: str, expected: TrainState) -> TrainState:
    """Return the whole training state, nested as `expected`.

    It stands in memory once: leaves are decoded one by one.

    Args:
      source: as `find` takes it.
      expected: a state, arrays or shapes, whose optimiser is AdamW alone.

    Raises:
      CheckpointError: as `read_model`.
    """
    file = find(source)
    values = _read(file, _KEYS, _to_array)
    adam = values["opt_state"]["0"]
    trees = {
        name: _as_expected(tree, expected.params, f"{file}: {name}")
        for name, tree in (
            ("params", values["params"]),
            ("ema_params", values["ema_params"]),
            ("mu", adam["mu"]),
            ("nu", adam["nu"]),
        )
    }
    # The original builds its optimiser anew in every step and keeps no count of the schedule: it is the step.
    opt_state = {
        "0": {"count": adam["count"], "mu": trees["mu"], "nu": trees["nu"]},
        "1": {"inner_state": {}},
        "2": {"count": values["step"]},
    }
    return TrainState(
        step=values["step"],
        params=trees["params"],
        ema_params=trees["ema_params"],
        opt_state=serialization.from_state_dict(expected.opt_state, opt_state),
    )


def write_state(directory: str, state: TrainState) -> None:
    """Write a directory that the original restores: one checkpoint, named ckpt-1.

    The file `checkpoint` is written last: without it the directory holds no checkpoint.

    Raises:
      CheckpointError: an optimiser that is not AdamW alone.
      ConfigError: something is there already.
    """
    opt_state = serialization.to_state_dict(state.opt_state)
    if set(opt_state) != {"0", "1", "2"} or "mu" not in opt_state["0"]:
        raise CheckpointError("only the state of AdamW without gradient clipping has a form in the original")
    values = {
        "step": state.step,
        "params": state.params,
        "ema_params": state.ema_params,
        "opt_state": {"0": opt_state["0"], "1": {"inner_state": {}}, "2": {}},
    }
    with new_directory(directory) as made:
        with (made / "ckpt-1.flax").open("wb") as file:
            _pack(values, file, msgpack.Packer())
        for suffix, content in _TENSORFLOW_FILES.items():
            (made / f"ckpt-1.{suffix}").write_bytes(content)
        (made / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\nall_model_checkpoint_paths: "ckpt-1"\n')


def _read(file: epath.Path, wanted: Sequence[str], leaf: Callable[[int, bytes], Any]) -> dict[str, Any]:
    """Return the wanted entries of the outermost map, each array as `leaf` makes it of its msgpack extension."""
    values: dict[str, Any] = {}
    try:
        with file.open("rb") as stream:
            # One leaf may be as large as msgpack allows; the default limit is 100 MB.
            unpacker = msgpack.Unpacker(stream, read_size=_READ_BYTES, max_buffer_size=0, ext_hook=leaf)
            for _ in range(unpacker.read_map_header()):
                key = unpacker.unpack()
                if key in wanted:
                    values[key] = unpacker.unpack()
                else:
                    unpacker.skip()
    # What msgpack raises for bytes that are not msgpack is not one family of errors.
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        reason = str(error) or "it ends too early"
        raise CheckpointError(f"{file} is cut off or damaged: {reason}; copy it again") from error
    missing = [key for key in wanted if key not in values]
    if missing:
        raise CheckpointError(f"{file} is no checkpoint of google-research/vdm: it has no {', '.join(missing)}")
    return values


def _to_shape(code: int, data: bytes) -> tuple[int, ...]:
    return tuple(_unpack_array(code, data)[0])


def _to_array(code: int, data: bytes) -> jax.Array:
    """Return one leaf, on the device at once, so that no tree ever stands in memory twice."""
    shape, dtype, content = _unpack_array(code, data)
    return jnp.asarray(np.frombuffer(content, dtype).reshape(shape))


def _unpack_array(code: int, data: bytes) -> tuple[list[int], str, bytes]:
    """Return shape, name of the type and content of a msgpack extension."""
    if code != _ARRAY_EXTENSION:
        raise ValueError(f"msgpack extension {code} is no array")
    shape, dtype, content = msgpack.unpackb(data)
    if dtype not in _DTYPES:
        raise ValueError(f"arrays of type {dtype} are not the original's")
    return shape, dtype, content


def _pack(value: Any, file: IO[bytes], packer: msgpack.Packer) -> None:
    """Write nested dicts of arrays leaf by leaf, in the bytes that flax's own `to_bytes` makes."""
    if isinstance(value, dict):
        file.write(packer.pack_map_header(len(value)))
        for key, entry in value.items():
            file.write(packer.pack(key))
            _pack(entry, file, packer)
    else:
        array = np.asarray(value)
        content = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
        file.write(packer.pack(msgpack.ExtType(_ARRAY_EXTENSION, content)))


def _as_expected(tree: Any, expected: Params, origin: str) -> Params:
    """Return the tree with its leaves in the expected shapes.

    flax before 0.3.6 kept the scale and bias of a GroupNorm as (1, 1, 1, c), later ones as (c,).
    """
    found: dict[str, Any] = dict(flatten_dict(tree, sep="/"))
    wanted: dict[str, Any] = dict(flatten_dict(expected, sep="/"))
    if other := other_gamma_type(tree.get("gamma", ()), expected.get("gamma", ())):
        raise CheckpointError(f"{origin} is of another architecture: {other}")
    for path in sorted(found.keys() | wanted.keys()):
        if path in found and path in wanted and found[path].shape == (1, 1, 1, *wanted[path].shape):
            found[path] = found[path].reshape(wanted[path].shape)
        ours, theirs = (_describe(leaves.get(path)) for leaves in (wanted, found))
        if ours != theirs:
            raise CheckpointError(f"{origin} is of another architecture: {path} is {theirs}, the model's is {ours}")
    return unflatten_dict(found, sep="/")


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
