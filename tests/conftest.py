"""Fixtures that several rooms share."""

import pytest

import pipelines.prepare


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared data directory of the digits."""
    out = str(tmp_path_factory.mktemp("data") / "digits")
    pipelines.prepare.run("digits", out)
    return out
