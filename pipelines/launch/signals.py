"""Signals: they end an import at once, and while machines are held the wait in good order, and never the deletion."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.launch.with_parent import DEATH_SIGNAL

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt as Ctrl-C does, but for the parent's death once; a handler of signals."""
    signal.signal(DEATH_SIGNAL, pass_by)
    raise KeyboardInterrupt


def pass_by(number: int, frame: FrameType | None) -> None:
    """Do nothing; a handler of signals. SIG_IGN instead makes Python complain of a signal that was on its way."""


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, which would end this process at once, raise KeyboardInterrupt as Ctrl-C does."""
    with _handled(interrupt):
        yield


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals end this process with one line while the block imports what a job needs.

    Interrupted while they are imported, compiled modules such as jaxlib print tracebacks of their own or crash.
    """
    if is_ignored(signal.SIGINT):
        yield
        return
    with _handled(_end):
        yield


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"vdm: interrupted\n")
    os._exit(1)


@contextmanager
def undisturbed(notice: Callable[[], None]) -> Iterator[None]:
    """Let signals wait for the end of the block; each is answered by a notice."""
    with _handled(lambda number, frame: notice()):
        yield


def is_ignored(number: int) -> bool:
    """Say whether a signal is to be passed over, as nohup asks for SIGHUP."""
    return signal.getsignal(number) == signal.SIG_IGN


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _SIGNALS if number != signal.SIGHUP or not is_ignored(number)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
