"""Fixtures that several rooms share."""

import os
import sys

import pytest

# Tests start many processes that import the same large packages. Compiling Beam, scikit-learn and TensorFlow takes
# seconds each time where the environment forbids to keep the bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pipelines.prepare  # noqa: E402


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared data directory of the digits."""
    out = str(tmp_path_factory.mktemp("data") / "digits")
    pipelines.prepare.run("digits", out)
    return out
