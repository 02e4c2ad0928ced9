"""The real gcloud CLI against the fake TPU API, with ssh and scp to simulated workers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.launch import worker
from tests.pipelines.launch.fake_tpu import PROJECT, FakeTpu
from tests.pipelines.launch.launching import Launch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def gcloud_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory in which gcloud has its settings and its ssh key, so that no test waits for a new one."""
    home = tmp_path_factory.mktemp("gcloud")
    (home / ".ssh").mkdir(mode=0o700)
    key = str(home / ".ssh" / "google_compute_engine")
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", key, "-C", "tester"], check=True)
    return home


@pytest.fixture
def fake(tmp_path: Path, gcloud_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTpu]:
    """The fake API, with gcloud pointed at it."""
    with FakeTpu(tmp_path / "simulated") as api:
        for name, value in {
            "HOME": str(gcloud_home),
            "PATH": f"{HERE / 'shims'}:{os.environ['PATH']}",
            "SIMULATED_ROOT": str(api.root),
            "SIMULATED_ENVIRONMENT": f'{{"SIMULATED_PYTHON": "{sys.executable}"}}',
            "CLOUDSDK_CONFIG": str(gcloud_home / "config"),
            "CLOUDSDK_CORE_PROJECT": PROJECT,
            "CLOUDSDK_CORE_ACCOUNT": "tester@example.com",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": api.url,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{api.url}compute/v1/",
        }.items():
            monkeypatch.setenv(name, value)
        yield api


@pytest.fixture
def launch(fake: FakeTpu, tmp_path: Path) -> Launch:
    """Two simulated workers on which the package counts as installed."""
    package = tmp_path / "vdm-0123456789ab"
    package.mkdir()
    shutil.copy(worker.__file__, package / "worker.py")
    (package / "installed").touch()
    directory = tmp_path / "shared" / "run"
    directory.mkdir(parents=True)
    return Launch(fake, directory, package)
