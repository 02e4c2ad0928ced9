import fcntl
import os
import pty
import struct
import sys
import termios
import threading

import pytest

from pipelines.progress import Progress, telling


@pytest.fixture
def shown_on_a_terminal(monkeypatch):
    """Return what a progress writes on a terminal of so many columns."""

    def shown(columns: int) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
        with os.fdopen(theirs, "w") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            with Progress("train digits", total=90, unit="step", done=80) as progress:
                progress.advance(10)
                progress.report("training bpd 2.729", "2.45 steps/s", "117.9 images/s", "41 % of the matmul peak")
        monkeypatch.undo()
        return os.read(ours, 100_000).decode()

    return shown


def test_a_bar_of_80_columns_shows_what_the_steps_gave(shown_on_a_terminal):
    last = shown_on_a_terminal(80).rstrip().split("\r")[-1]
    assert "90/90" in last
    assert "training bpd 2.729, 2.45 steps/s" in last
    assert "step/s" not in last.replace("2.45 steps/s", ""), "the speed is there once"


def test_a_terminal_without_width_gets_lines(shown_on_a_terminal):
    assert "step 90 of 90, training bpd 2.729, 2.45 steps/s" in shown_on_a_terminal(0)


def test_what_takes_long_is_said_again_until_it_ends():
    said, thrice = [], threading.Event()

    def say(text):
        said.append(text)
        if len(said) >= 3:
            thrice.set()

    with telling(say, "drawing 4 samples", seconds_between=0.001):
        assert thrice.wait(30)
    count = len(said)
    assert said == ["drawing 4 samples"] + ["still drawing 4 samples"] * (count - 1)
    assert not any(thread.name == "telling" for thread in threading.enumerate())


def test_an_error_passes_and_ends_the_reminders():
    with pytest.raises(ValueError, match="disk"), telling(lambda _: None, "writing", seconds_between=0.001):
        raise ValueError("disk")
    assert not any(thread.name == "telling" for thread in threading.enumerate())
