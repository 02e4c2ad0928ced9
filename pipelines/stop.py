"""Stop on request, and save when it is time: what one process wishes, all processes do after the same step.

A wish travels through the compiled step: each device passes a number in, and the largest comes out on every process.
It is read one step later, when it is there anyway, so that no process waits for it.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from pipelines.launch.signals import is_ignored, pass_by
from vdm_lib.hosts import is_first
from vdm_lib.sharding import put_global, split_by_image

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class StopRequest:
    """Whether a signal has asked the job to stop."""

    requested: bool = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Yield a request that the first SIGTERM, SIGINT or SIGHUP sets; a second one ends the process at once.

    SIGHUP says that the terminal or the launcher is gone. That is no second wish, and under nohup no wish at all.
    Outside the main thread, where no handler can be set, the request stays unset.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [number for number in _SIGNALS if number != signal.SIGHUP or not is_ignored(number)]
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        request.requested = True
        for each in numbers:
            signal.signal(each, pass_by if each == signal.SIGHUP else signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Wish(IntEnum):
    """What a process wants to happen after a step; the largest wish of all wins."""

    GO_ON = 0
    SAVE = 1
    STOP = 2


class Wishes:
    """The wishes of all processes, step by step."""

    def __init__(self, mesh: Mesh, stop: StopRequest, save_every_s: float) -> None:
        """Wish STOP once `stop` is requested, and on the first process SAVE every `save_every_s` seconds."""
        self._stop, self._save_every_s = stop, save_every_s
        self._saved = time.monotonic()
        self._heard: Array | None = None
        # Made once: the same three arrays serve all steps.
        shape = (mesh.size,)
        self._arrays = {
            wish: put_global(
                shape, split_by_image(mesh), lambda index, wish=wish: np.full(shape, wish, np.int32)[index]
            )
            for wish in Wish
        }

    def wish(self) -> Wish:
        """Return what this process wants."""
        if self._stop.requested:
            return Wish.STOP
        due = is_first() and time.monotonic() - self._saved >= self._save_every_s
        return Wish.SAVE if due else Wish.GO_ON

    def array(self) -> Int[Array, " devices"]:
        """Return what this process passes into the compiled step."""
        return self._arrays[self.wish()]

    def granted(self, heard: Int[Array, ""]) -> Wish:
        """Return what all processes do after this step, the same on each.

        Args:
          heard: the largest wish, as this step gives it; read at the next call.
        """
        if jax.process_count() == 1:
            return self.wish()
        before, self._heard = self._heard, heard
        return Wish.GO_ON if before is None else Wish(int(before))

    def saved(self) -> None:
        """Start the time to the next SAVE; what was wished before this moment is forgotten."""
        self._saved, self._heard = time.monotonic(), None


def _on_each_device(wish: Wish, mesh: Mesh) -> Int[Array, " devices"]:
    """Return an array whose part on each device of this process is the wish; other processes give theirs."""
    numbers = np.full(mesh.size, wish, np.int32)
    return put_global(numbers.shape, split_by_image(mesh), lambda index: numbers[index])
