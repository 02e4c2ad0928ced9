"""Fixtures that several rooms share, and what all test processes share."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

# Tests start many processes that import the same large packages. Compiling Beam, scikit-learn and TensorFlow takes
# seconds each time where the environment forbids to keep the bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pipelines.prepare  # noqa: E402
from tests.beam_jobs.gcs_emulator import Emulator  # noqa: E402

# Compiled programs, shared by the test processes and by the jobs that they start. With a limit of size jax locks
# the directory, so that nobody reads half a file. `pytest --cache-clear` empties it.
_COMPILATION_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(10**9),
}


_STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer a limit of time, for shared machines: their slow hours take twice as long as their quiet ones."""
    parser.addoption("--minutes", type=float, default=float("inf"), help="skip what has not begun after so many")
    parser.addoption("--turn", type=int, default=0, help="begin with another file in each turn, so that all get theirs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files in the order of the turn."""
    files = list(dict.fromkeys(item.path for item in items))
    if files:
        place = {file: (i - config.option.turn) % len(files) for i, file in enumerate(files)}
        items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, and the making of its fixtures, once the time is over."""
    minutes: float = item.config.option.minutes
    if time.monotonic() - _STARTED > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes of --minutes are over")


def pytest_configure(config: pytest.Config) -> None:
    """Name the directory before anything imports jax, and let Ctrl-C reach tests that a shell runs behind itself."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(_COMPILATION_CACHE, JAX_COMPILATION_CACHE_DIR=str(config.cache.mkdir("jax")))


@pytest.fixture(scope="session")
def shared_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary directory that the processes of this test run share; lock what is made in it."""
    return _of_all_processes(tmp_path_factory)


@pytest.fixture(scope="session")
def digits_dir(shared_tmp: Path) -> str:
    """A prepared data directory of the digits, made by the first test process that asks for it."""
    out = shared_tmp / "digits"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            pipelines.prepare.run("digits", str(out))
    return str(out)


@pytest.fixture(scope="session")
def debug_run(shared_tmp: Path, digits_dir: str) -> Path:
    """A run of the config `debug`, trained by the first test process that asks for it: to be copied, not changed."""
    import configs
    import pipelines.train

    out = shared_tmp / "debug"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            pipelines.train.run(configs.load("debug"), digits_dir, f"{out}.part")
            Path(f"{out}.part").rename(out)
    return out


@pytest.fixture
def gcs() -> Iterator[Emulator]:
    """An object store with one bucket named `bucket`; `gcs.environment()` leads other processes to it."""
    emulator = Emulator("bucket")
    thread = threading.Thread(target=emulator.serve_forever)
    thread.start()
    yield emulator
    emulator.shutdown()
    emulator.server_close()
    thread.join()


def _of_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a temporary directory that the processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
