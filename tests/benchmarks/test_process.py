"""What a process took, whatever the process that measures it holds."""

import sys

import numpy as np
import pytest

from benchmarks.process import run


def test_the_peak_is_that_of_the_process_alone():
    held = np.ones(2**27)  # a GiB
    ended = run([sys.executable, "-c", "import sys; print(sys.stdin.read() * 2)"], "ab")
    assert ended.said == "abab\n"
    assert 0 < ended.peak_gib < 0.2 < held.nbytes / 2**30
    assert 0 < ended.cpu_s < 10
    assert run([sys.executable, "-c", "b'1' * 2**29"]).peak_gib > 0.5


def test_a_failure_says_what_the_process_said():
    with pytest.raises(RuntimeError, match=r"(?s)exit code 3.*the reason"):
        run([sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"], quiet=True)
