"""A report of an evaluation, for tests of what is made of it."""

from typing import Any

from vdm_lib.report import BpdReport


def bpd_report(step: int, **changes: Any) -> BpdReport:
    values = {
        "split": "test", "bpd": 2.0, "bpd_stderr": 0.01, "bpd_between_passes_stderr": 0.01, "bpd_test_set_stderr": 0.02,
        "bpd_recon": 0.2, "bpd_latent": 0.002, "bpd_diff": 1.798, "protocol": "every_image", "estimator": "bound",
        "estimator_settings": "", "num_images": 10, "passes": 2, "network_calls": 20, "timesteps": 0,
        "time_sampling": "uniform", "time_density": (), "target_stderr": None, "params": "ema", "seed": 0,
        "dtype": "float32", "matmul_precision": "float32", "data_fingerprint": "ab" * 32, "checkpoint_digest": "1" * 64,
        "code_version": "0.1.0", "seconds": 1.0, "images_per_s": 20.0, "noise_levels": (), "control_coefficients": (),
    }  # fmt: skip
    return BpdReport(**{"step": step, **values, **changes})
