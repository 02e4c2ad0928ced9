"""The job `vdm plan`: whether a config fits a TPU slice, how long a step takes at best, and what a run costs.

The real training step is compiled for the slice with libtpu; nothing runs. The time is a roofline: the products and
convolutions at the peak of the chips, or their traffic at the peak of the memory, whichever is longer. Real
steps take longer. Products with padding are counted, 3 % too many for 3x3 convolutions on 32x32 pixels.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import configs
from pipelines import accelerators, prices
from pipelines.accelerators import Accelerator
from vdm_lib.config import Config
from vdm_lib.errors import ConfigError, VdmError

RANKED = ("v3-8", "v3-64", "v4-8", "v5litepod-16", "v6e-16")
"""What `--accelerator all` compiles for."""
_COMPILE_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Plan:
    """What one training step of a config is on one slice.

    Attributes:
        config: name of the experiment.
        accelerator: the slice, such as v3-64.
        changes: values of the config that had to be other than asked for, `{}` if none.
        fits: the compiler placed the step in the memory of a device.
        peak_bytes_per_device: memory that the step needs on each device.
        hbm_bytes_per_device: memory that each device has.
        flops_per_step: work of a step over all devices, remat's repetitions included.
        step_seconds_roofline: an estimate of the best possible step, not a measurement.
        bound: what sets that time: compute or memory.
        train_hours_roofline: that time over train.steps.
        price_usd_roofline: list price of these hours, None if the price file has none.
        prices_as_of: date of the price file.
        collectives: operations between devices in the compiled program, by kind; inside a loop counted once.
        compile_seconds: wall time of the compiler here.
    """

    config: str
    accelerator: str
    changes: dict[str, Any]
    fits: bool
    peak_bytes_per_device: int
    hbm_bytes_per_device: int
    flops_per_step: float
    step_seconds_roofline: float
    bound: str
    train_hours_roofline: float
    price_usd_roofline: float | None
    prices_as_of: str
    collectives: dict[str, int]
    compile_seconds: float


@dataclass(frozen=True)
class PlanResult:
    """What `vdm plan` found: the config as asked for, and if that does not fit the smallest change found that does."""

    plans: tuple[Plan, ...]
    remedies: tuple[Plan, ...]


def run(config: Config, accelerator: str) -> PlanResult:
    """Plan a config on one slice, or with `all` on those of RANKED, quickest first.

    Raises:
      ConfigError: unknown slice, or a batch that its devices cannot share.
      VdmError: libtpu is missing, or the compiler failed.
    """
    check_libtpu()
    if accelerator == "all":
        plans = [plan_step(config, accelerators.find(name)) for name in RANKED]
        plans.sort(key=lambda plan: (not plan.fits, plan.train_hours_roofline, plan.price_usd_roofline or 0.0))
        return PlanResult(tuple(plans), ())
    plan = plan_step(config, accelerators.find(accelerator))
    remedy = None if plan.fits else smallest_remedy(config, accelerators.find(accelerator))
    return PlanResult((plan,), () if remedy is None else (remedy,))


def check_libtpu() -> None:
    """Raise VdmError, saying how to install it, if the TPU compiler is not here."""
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise VdmError("plan compiles with libtpu, which is not installed: pip install 'vdm-pipeline[train,plan]'")


def plan_step(config: Config, accelerator: Accelerator, changes: Mapping[str, Any] | None = None) -> Plan:
    """Compile the step of a config with some changes for a slice and return what it needs there."""
    changes = dict(changes or {})
    changed = configs.override(config, changes)
    if changed.train.batch_size % accelerator.num_devices:
        raise ConfigError(
            f"train.batch_size={changed.train.batch_size} does not divide over the {accelerator.num_devices} devices "
            f"of {accelerator.name}: use a multiple of {accelerator.num_devices}"
        )
    return make_plan(changed, accelerator, changes, _compile(changed, accelerator))


def make_plan(config: Config, accelerator: Accelerator, changes: dict[str, Any], answer: Mapping[str, Any]) -> Plan:
    """Return the plan that follows from the compiler's answer; a pure function but for the price file."""
    compute_s = answer["flops"] / accelerator.peak_flops
    memory_s = answer["bytes"] / accelerator.hbm_bytes_per_s
    hours = max(compute_s, memory_s) * config.train.steps / 3600
    per_hour = prices.usd_per_hour(accelerator)
    return Plan(
        config=config.name,
        accelerator=accelerator.name,
        changes=changes,
        fits=answer["fits"],
        peak_bytes_per_device=answer["peak_bytes"],
        hbm_bytes_per_device=accelerator.hbm_bytes_per_device,
        flops_per_step=answer["flops"],
        step_seconds_roofline=max(compute_s, memory_s),
        bound="compute" if compute_s >= memory_s else "memory",
        train_hours_roofline=hours,
        price_usd_roofline=None if per_hour is None else hours * per_hour,
        prices_as_of=prices.read().as_of,
        collectives=answer["collectives"],
        compile_seconds=answer["compile_seconds"],
    )


def smallest_remedy(config: Config, accelerator: Accelerator) -> Plan | None:
    """Return the first of the remedies that fits, None if none does; each is compiled."""
    for changes, slice_ in remedies(config, accelerator):
        plan = plan_step(config, slice_, changes)
        if plan.fits:
            return plan
    return None


def remedies(config: Config, accelerator: Accelerator) -> Iterator[tuple[dict[str, Any], Accelerator]]:
    """Yield changes, what costs least first: remat on the same slice, then larger slices with and without it."""
    ways = [{}] if config.model.remat else [{}, {"model.remat": True}]
    yield from ((changes, accelerator) for changes in ways if changes)
    larger = accelerators.next_larger(accelerator)
    while larger is not None and config.train.batch_size % larger.num_devices == 0:
        yield from ((changes, larger) for changes in ways)
        larger = accelerators.next_larger(larger)


def _compile(config: Config, accelerator: Accelerator) -> dict[str, Any]:
    # On a TPU `auto` loops over the layers; the process that compiles sees only this machine's CPU.
    if config.model.scan_layers == "auto":
        config = configs.override(config, {"model.scan_layers": "on"})
    generation = accelerator.generation
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation.name in ("v4", "v5p") else {}
    if generation.units_per_chip == 1 and accelerator.num_chips in (1, 8):
        options["chips_per_host_bounds"] = (1, 1, 1) if accelerator.num_chips == 1 else (2, 4, 1)
    request = {
        "config": configs.to_json(config),
        "topology": f"{generation.compiler_name}:{accelerator.topology}",
        "options": options,
        "compiled": True,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.plan_compile"],
        input=json.dumps(request), capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise VdmError(f"the step of {config.name} does not compile for {accelerator.name}: {lines[-1]:.300}")
    return json.loads(done.stdout.splitlines()[-1])
