"""Run by test_devices.py: the report and the estimates of one small bound on some devices, into an .npz file.

python evaluate_on_devices.py OUT.npz [DEVICES BATCH ...]
python evaluate_on_devices.py OUT.npz --process ADDRESS NUMBER OF
"""

import sys

import jax
import numpy as np
from jax.sharding import Mesh

import configs
from vdm_lib.data import Split
from vdm_lib.evaluate import Subject
from vdm_lib.evaluation.measure import measure_split
from vdm_lib.model import VDM

SUBJECT = Subject(step=0, split="test", fingerprint="0" * 64, params="ema", digest="1" * 64, code_version="0")


def measured(num_devices: int, batch_size: int) -> dict[str, np.ndarray]:
    """Return what is to be equal on all numbers of devices."""
    changes = {"data.image_shape": [4, 4, 1], "eval.passes": 2, "eval.seed": 3, "eval.batch_size": batch_size}
    config = configs.load("debug", changes)
    params = jax.jit(VDM.from_config(config).init)(jax.random.key(0))
    # Away from zero-initialised layers, so that the network does something.
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    params = jax.tree.map(np.asarray, params)
    images = np.random.default_rng(0).integers(0, 17, (64, 4, 4, 1), np.uint8)
    split = Split("test", images[:61], np.zeros(61, np.int64), 17, "0" * 64)
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("data",))
    found = measure_split(config, params, split, mesh, SUBJECT)
    report = found.report
    return {
        "bpd": found.measurement.estimates + found.estimator.exact,
        "report": np.asarray([report.bpd, report.bpd_stderr, report.bpd_test_set_stderr, *report.time_density]),
        "noise levels": np.asarray([level.bpd for level in report.noise_levels]),
    }


def main(path: str, words: list[str]) -> None:
    if words[0] == "--process":
        address, number, count = words[1], int(words[2]), int(words[3])
        jax.distributed.initialize(address, count, number)
        cases = [(jax.device_count(), 10)]
    else:
        cases = [(int(devices), int(batch)) for devices, batch in zip(words[::2], words[1::2], strict=True)]
    results = {}
    for devices, batch in cases:
        for what, values in measured(devices, batch).items():
            results[f"{what}, {devices} devices, batch {batch}"] = values
    np.savez(path, allow_pickle=False, **results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
