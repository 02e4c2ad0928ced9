import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def test_the_number_does_not_depend_on_devices_or_batches(tmp_path):
    path = tmp_path / "results.npz"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    script = Path(__file__).with_name("evaluate_on_devices.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(path) as file:
        results = dict(file)
    names = [name for name in results if not name.startswith("knots")]
    assert names == ["1 devices, batch 37", "2 devices, batch 10", "4 devices, batch 6"]
    first = results[names[0]]
    assert first.shape == (2, 37)
    assert first.std() > 0.1
    for name in names[1:]:
        np.testing.assert_allclose(results[name], first, rtol=3e-5, err_msg=name)
        np.testing.assert_allclose(results[f"knots of {name}"], results[f"knots of {names[0]}"], rtol=3e-5)
