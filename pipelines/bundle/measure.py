"""Bits per dimension of a bundle's parameters, measured again with other noise than the bundle's own number."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
from safetensors.numpy import load_file

import configs
from pipelines.progress import Progress
from pipelines.run_dir import code_version
from vdm_lib.data import Split
from vdm_lib.errors import VdmError
from vdm_lib.evaluate import Subject
from vdm_lib.evaluation.measure import measure_split
from vdm_lib.export.functions import unflatten_params
from vdm_lib.files.checksums import params_digest
from vdm_lib.report import BpdReport
from vdm_lib.sharding import make_mesh

# Two honest measurements differ by more than this many errors once in 15,000 times.
_LARGEST_ERRORS = 4.0
# Sums over images in another order differ by this much in float32.
_ROUNDING_BPD = 1e-4


def measure_again(bundle: Path, images: Split) -> BpdReport:
    """Return the bound of the bundle's parameters on a split, every image in every pass, by another seed."""
    config = configs.from_json((bundle / "config.json").read_text(), "config.json of the bundle")
    evaluation = replace(config.eval, protocol="every_image", params="ema", seed=(config.eval.seed + 1) % 2**32)
    params = unflatten_params({name: jnp.asarray(x) for name, x in load_file(bundle / "params.safetensors").items()})
    step = int(json.loads((bundle / "provenance.json").read_text())["step"])
    subject = Subject(
        step=step,
        split=images.name,
        fingerprint=images.fingerprint,
        params="ema",
        digest=params_digest(params),
        code_version=code_version(),
    )
    with Progress("verify", total=evaluation.passes, unit="pass") as progress:
        progress.say(f"measuring bpd of {len(images.images):,} {images.name} images; the first batch compiles")

        def on_pass(done: int) -> None:
            progress.advance()
            progress.report()

        config = replace(config, eval=evaluation)
        return measure_split(config, params, images, make_mesh(), subject, on_pass=on_pass).report


def check_claim(measured: BpdReport, claimed: tuple[float, float]) -> None:
    """Raise VdmError if a measurement does not agree with what a bundle states: bpd and its standard error."""
    bpd, stderr = claimed
    allowed = _LARGEST_ERRORS * math.hypot(measured.bpd_stderr, stderr) + _ROUNDING_BPD
    if not abs(measured.bpd - bpd) <= allowed:
        raise VdmError(
            f"the bundle says {bpd:.4f} ± {stderr:.4f} bits/dim, measured again it is {measured.bpd:.4f} ± "
            f"{measured.bpd_stderr:.4f}: that is no chance, do not use it"
        )
