"""What a training run cost, from its record: nothing here is guessed."""

import json
from typing import Any

import jax
import numpy as np
from etils import epath

from vdm_lib.config import Config
from vdm_lib.export import functions
from vdm_lib.export.card import Compute
from vdm_lib.metrics import read_metrics
from vdm_lib.model import VDM


def flops_per_image(model: VDM, params: dict[str, Any]) -> float | None:
    """Return the floating-point operations of the network on one image as XLA counts them, None if it does not."""
    z = jax.ShapeDtypeStruct((1, *model.data.image_shape), np.float32)
    one = jax.ShapeDtypeStruct((1,), np.float32)
    specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}
    lowered = jax.jit(lambda *arguments: functions.eps_hat(model, *arguments)).lower(specs, z, one, one)
    analysis = lowered.cost_analysis()
    return float(analysis["flops"]) if analysis and analysis.get("flops", 0) > 0 else None


def training_compute(workdir: str, config: Config, step: int, flops: float | None) -> Compute:
    """Return what it took to reach a step.

    Args:
        workdir: the run directory.
        config: its config.
        step: step of the checkpoint.
        flops: of the network on one image, forward.
    """
    images = step * config.train.batch_size
    return Compute(
        steps=step,
        images=images,
        # Backward costs twice the forward pass.
        flops=None if flops is None else 3.0 * flops * images,
        hours=_hours(workdir, step),
        devices=_devices(training_provenance(workdir)),
    )


def training_provenance(workdir: str) -> dict[str, Any]:
    """Return the provenance of the run, empty if there is none."""
    try:
        provenance = json.loads((epath.Path(workdir) / "provenance.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return provenance if isinstance(provenance, dict) else {}


def _hours(workdir: str, step: int) -> float | None:
    """Return the time of the logged steps up to `step`; rows hold the steps since the row before and their speed."""
    rows = [row for row in read_metrics(epath.Path(workdir) / "metrics.jsonl") if row["step"] <= step]
    if not rows or not all(row.get("steps_per_s", 0) > 0 for row in rows):
        return None
    before = [0, *(row["step"] for row in rows[:-1])]
    seconds = sum((row["step"] - first) / row["steps_per_s"] for row, first in zip(rows, before, strict=True))
    return seconds / 3600.0


def _devices(provenance: dict[str, Any]) -> str | None:
    count, kind = provenance.get("num_devices"), provenance.get("device_kind")
    return f"{count} x {kind}" if count and kind else None
