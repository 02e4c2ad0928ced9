"""The line with which `vdm prepare` says what it is about to write."""

import re


def without_announcement(stderr: str) -> str:
    """Return what a job that began said beside that line."""
    line, _, rest = stderr.partition("\n")
    assert re.fullmatch(r"prepare: [\d,]+ \w+ and [\d,]+ \w+ images of \w+ into [\d,]+ files", line), stderr
    return rest
