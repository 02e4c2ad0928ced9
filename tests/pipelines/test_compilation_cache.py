"""Where compiled programs are kept: a default place, the user's own, or none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.compilation_cache import DIRECTORY, MIN_COMPILE_S, SHORTEST, keep_compiled

CODE = """
from pipelines.compilation_cache import keep_compiled
keep_compiled()
import jax
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready()
"""


def _run(home: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMPILATION_CACHE")}
    environment |= {"XDG_CACHE_HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    _run(tmp_path)
    first = sorted(path.name for path in tmp_path.rglob("*-cache"))
    assert first
    _run(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*-cache")) == first


@pytest.mark.parametrize(("of_the_user", "kept"), [(None, str(MIN_COMPILE_S)), ("5", "5")])
def test_short_programs_are_kept_unless_the_user_says_otherwise(tmp_path, monkeypatch, of_the_user, kept):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(DIRECTORY)
    monkeypatch.delenv(SHORTEST)
    if of_the_user is not None:
        monkeypatch.setenv(SHORTEST, of_the_user)
    keep_compiled()
    assert os.environ[SHORTEST] == kept


def test_a_place_that_cannot_be_written_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(DIRECTORY)
    keep_compiled()
    assert DIRECTORY not in os.environ


def test_the_place_of_the_user_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(DIRECTORY, "/elsewhere")
    keep_compiled()
    assert os.environ[DIRECTORY] == "/elsewhere"
    assert not list(tmp_path.iterdir())
