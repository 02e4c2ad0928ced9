import threading

import pytest

from pipelines.progress import telling


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
