import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("evaluate_on_devices.py")


def start(num_devices: int, *words: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(processes: list[subprocess.Popen]) -> None:
    try:
        outputs = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0] * len(processes), outputs


def results(path: Path, case: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {what: file[f"{what}, {case}"] for what in ("bpd", "report", "noise levels")}


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("devices") / "one.npz"
    finish([start(4, str(path), "1", "61", "2", "10", "4", "6")])
    return path


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for what, values in found.items():
        np.testing.assert_allclose(values, expected[what], rtol=5e-5, atol=1e-6, err_msg=what)


@pytest.mark.slow
def test_the_number_does_not_depend_on_devices_or_batches(of_one_process):
    first = results(of_one_process, "1 devices, batch 61")
    assert first["bpd"].shape == (2, 61)
    assert first["bpd"].std() > 0.1
    for case in ("2 devices, batch 10", "4 devices, batch 6"):
        assert_same(results(of_one_process, case), first)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_give_the_report_of_one(of_one_process, tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    paths = [tmp_path / f"{number}.npz" for number in range(2)]
    finish([start(2, str(path), "--process", address, str(number), "2") for number, path in enumerate(paths)])
    for path in paths:
        # Either process has the whole result.
        assert_same(results(path, "4 devices, batch 10"), results(of_one_process, "1 devices, batch 61"))
