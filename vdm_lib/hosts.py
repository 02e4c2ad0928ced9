"""Several processes of one run: what they must agree on, and errors that all of them must learn of.

With one process every function here returns at once. All processes must call each function in the same order.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vdm_lib.errors import MachineError, VdmError

_T = TypeVar("_T")


def is_first() -> bool:
    """Return whether this process is the one that writes records and speaks to people."""
    return jax.process_index() == 0


def first_says(number: int) -> int:
    """Return the number that the first process gave, below 2^31."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def together(work: Callable[[], _T]) -> _T:
    """Return what work() returns, on every process or on none.

    Raises:
      VdmError: its own, if work() raised one here; MachineError naming the first process on which it raised.
    """
    if jax.process_count() == 1:
        return work()
    error, result = None, None
    try:
        result = work()
    except VdmError as raised:
        error = raised
    failed = np.flatnonzero(multihost_utils.process_allgather(np.int32(error is not None)))
    if error is not None:
        raise error
    if failed.size:
        raise MachineError(f"process {failed[0]} could not go on: its own message says why")
    return result  # type: ignore[return-value]


def check_same(facts: Mapping[str, str]) -> None:
    """Raise MachineError if a process has other values than the first; names the first fact that differs."""
    if jax.process_count() == 1:
        return
    digests = np.stack([np.frombuffer(sha256(value.encode()).digest(), np.uint8) for value in facts.values()])
    of_all = multihost_utils.process_allgather(digests)
    for index, name in enumerate(facts):
        other = np.flatnonzero((of_all[:, index] != of_all[0, index]).any(axis=-1))
        if other.size:
            raise MachineError(
                f"process {other[0]} has another {name} than process 0: start every process with the same code, "
                "config and data"
            )
