"""How far a job is: a bar on a terminal, one line at intervals elsewhere; both on stderr."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0
# Facts tell the speed in units of their own: 80 columns have no room for both.
_BAR_WITH_FACTS = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Counts the units of a job; use as a context manager."""

    def __init__(self, what: str, *, total: int, unit: str, done: int = 0, silent: bool = False) -> None:
        """Start at `done` of `total` units; `silent` shows nothing, as on all processes but the first."""
        self._silent, self._terminal = silent, _is_terminal() and not silent
        self._what, self._total, self._unit, self._done = what, total, unit, done
        self._started, self._first = time.monotonic(), done
        self._reported = -_SECONDS_BETWEEN_LINES
        self._bar = tqdm(total=total, initial=done, unit=unit, desc=what, disable=not self._terminal)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, *lines: str) -> None:
        """Print lines without disturbing the bar."""
        for line in () if self._silent else lines:
            tell(self._what, line)

    def begin(self) -> None:
        """Count the time from here: what came before is no measure of the time left."""
        self._started = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count units."""
        self._done += count
        self._bar.update(count)

    def advance_and_report(self, count: int) -> None:
        """Count units that were done together, and show how far it is."""
        self.advance(count)
        self.report()

    def report(self, *facts: str) -> None:
        """Show what there is to know at this point: beside the bar, or as a line with the time left."""
        now = time.monotonic()
        if self._terminal:
            if facts:
                self._bar.bar_format = _BAR_WITH_FACTS
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
        elif now - self._reported >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._reported = now
            left = (now - self._started) / max(self._done - self._first, 1) * (self._total - self._done)
            count = f"{self._unit} {self._done:,} of {self._total:,}"
            self.say(", ".join((count, *facts, f"{tqdm.format_interval(left)} left")))


def _is_terminal() -> bool:
    """Return whether stderr is a terminal of some width: a bar on one that says 0 columns is not to be seen."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


def tell(what: str, line: str) -> None:
    """Print a line about a job on stderr, beside its bar if it has one."""
    # Where the reader was killed, such as a flow, the job is about to be asked to save its state: it must live on.
    with contextlib.suppress(BrokenPipeError):
        tqdm.write(f"{what}: {line}", file=sys.stderr)


@contextlib.contextmanager
def telling(say: Callable[[str], None], what: str, seconds_between: float = 10.0) -> Iterator[None]:
    """Say what is being done, and at intervals that it still is, until the block ends."""
    done = threading.Event()

    def remind() -> None:
        while not done.wait(seconds_between):
            say(f"still {what}")

    say(what)
    thread = threading.Thread(target=remind, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
