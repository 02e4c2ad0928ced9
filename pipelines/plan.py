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
from dataclasses import replace
from functools import cache, partial
from typing import Any

import configs
from pipelines import run_dir
from pipelines.launch.with_parent import ending_with_parent
from pipelines.planning import accelerators, prices
from pipelines.planning.accelerators import Accelerator
from pipelines.planning.compile import ANSWER
from pipelines.planning.report import Plan, PlanRanking, quickest_changes, rank, words_of
from pipelines.progress import tell, telling
from vdm_lib.config import Config
from vdm_lib.errors import ConfigError, VdmError

RANKED = ("v3-8", "v3-64", "v4-8", "v5litepod-16", "v6e-16")
"""What `--accelerator all` compiles for."""
COMPILER = (sys.executable, "-P", "-m", "pipelines.planning.compile")
"""The process that compiles; -P, as a file of the user's that is called like a module must not be run."""
_COMPILE_TIMEOUT_S = 2 * 3600


def run(config: Config, accelerator: str, quick: bool = False, ways: bool = False) -> Plan | PlanRanking:
    """Plan a config on one slice, on several (names with commas), or with `all` on those of RANKED, quickest first.

    Args:
      config: the experiment.
      accelerator: names of slices.
      quick: let the compiler make its least effort: a third of its time; memory differs by up to an eighth from the
        program that `vdm train` compiles there.
      ways: compile without remat and with both kinds of it, each with the fewest microbatches that fit, and say which
        the compiler takes for the quickest.

    Raises:
      ConfigError: unknown slice, a batch that its devices cannot share, or `ways` with `quick`.
      VdmError: libtpu is missing, or the compiler failed.
    """
    _slices(accelerator)  # a wrong name is told first
    if ways and quick:
        raise ConfigError("ways are compared by what the compiler estimates, and with its least effort it makes slower "
                          "programs: leave out --quick or --ways")  # fmt: skip
    check_libtpu()
    return run_checked(config, accelerator, quick, ways)


def run_checked(config: Config, accelerator: str, quick: bool = False, ways: bool = False) -> Plan | PlanRanking:
    """Do what `run` does, once the compiler is known to be there."""
    slices = _slices(accelerator)
    # As the command asks whether there is a table: one slice that is named twice still makes one.
    if accelerator != "all" and "," not in accelerator:
        return plan_slice(config, slices[0], quick, ways)
    plans: list[Plan] = []
    refused: dict[str, VdmError] = {}
    for slice_ in slices:
        try:
            plans.append(plan_slice(config, slice_, quick, ways, larger_slices=False))
        except VdmError as error:
            # The others took minutes each and are not lost for it.
            refused[slice_.name] = error
    if not plans:
        of_all = "; ".join(f"{name}: {why}" for name, why in refused.items())
        wrong_usage = all(isinstance(error, ConfigError) for error in refused.values())
        raise ConfigError(of_all) if wrong_usage else VdmError(of_all)
    return rank(config.name, plans, {name: str(error) for name, error in refused.items()})


def _slices(accelerator: str) -> list[Accelerator]:
    names = RANKED if accelerator == "all" else dict.fromkeys(accelerator.split(","))
    return [accelerators.find(name) for name in names]


def plan_slice(config: Config, accelerator: Accelerator, quick: bool, ways: bool, larger_slices: bool = True) -> Plan:
    """Return the plan of a slice, with a remedy if the config does not fit as it is, and the other ways if asked."""
    plan = plan_step(config, accelerator, quick)
    if not plan.fits:
        try:
            plan = replace(plan, remedy=_smallest_remedy(config, plan, larger_slices))
        except VdmError as error:
            plan = _not_lost(plan, error)
    for changes in _other_kinds_of_remat(config, plan) if ways else ():
        try:
            found = _with_fewest_microbatches(config, plan_step(config, accelerator, quick, changes))
        except VdmError as error:
            plan = _not_lost(plan, error)
            continue
        if found is not None:
            plan = replace(plan, other_ways=(*plan.other_ways, found))
    return replace(plan, quickest=quickest_changes(plan))


def _not_lost(plan: Plan, error: VdmError) -> Plan:
    """Return a plan, which took minutes, with what could not be found out besides."""
    tell("plan", f"{error}; going on without")
    return replace(plan, failed=(*plan.failed, str(error)))


def _other_kinds_of_remat(config: Config, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the changes that give each kind of remat which the plan, or else its remedy, does not have."""
    if config.model.network != "unet":
        return
    planned = configs.override(config, (plan.usable or plan).changes).model
    for remat, keeps in (False, planned.remat_keeps), (True, "costly"), (True, "nothing"):
        if (remat, keeps) != (planned.remat, planned.remat_keeps):
            values = {"model.remat": remat, "model.remat_keeps": keeps}
            own = {"model.remat": config.model.remat, "model.remat_keeps": config.model.remat_keeps}
            yield {key: value for key, value in values.items() if value != own[key]}


def check_libtpu() -> None:
    """Raise VdmError, saying how to install it, if the TPU compiler is not here."""
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise VdmError(
            "plan compiles with libtpu, which is not here (684 MB): make setup-plan, "
            "or pip install '.[train,plan]' in a checkout"
        )


def plan_step(
    config: Config, accelerator: Accelerator, quick: bool = False, changes: Mapping[str, Any] | None = None
) -> Plan:
    """Compile the step of a config with some changes for a slice and return what it needs there."""
    changes = dict(changes or {})
    changed = configs.override(config, changes)
    words = f" with {words_of(changes)}" if changes else ""
    if changed.train.batch_size % _least_batch(changed, accelerator):
        parts = changed.train.microbatches
        raise ConfigError(
            f"train.batch_size={changed.train.batch_size} does not divide over the {accelerator.num_devices} devices "
            f"of {accelerator.name}{f' x {parts} microbatches' if parts > 1 else ''}: use a multiple of "
            f"{_least_batch(changed, accelerator)}"
        )
    with telling(partial(tell, "plan"), f"compiling {config.name} for {accelerator.name}{words}", 60.0):
        answer = _compile(changed, accelerator, quick)
    asked = run_dir.differences(configs.load(config.name), config)
    return replace(make_plan(changed, accelerator, changes, answer), asked=asked, quick=quick)


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
        images_at_once=config.train.batch_size // _least_batch(config, accelerator),
        flops_per_step=answer["flops"],
        step_seconds_roofline=max(compute_s, memory_s),
        bound="compute" if compute_s >= memory_s else "memory",
        train_hours_roofline=hours,
        price_usd_roofline=None if per_hour is None else hours * per_hour,
        prices_as_of=prices.read().as_of,
        collectives=answer["collectives"],
        compile_seconds=answer["compile_seconds"],
        cycles_estimated=answer["cycles"],
    )


def _least_batch(config: Config, accelerator: Accelerator) -> int:
    """Return the batch of one image for each microbatch of each device."""
    return accelerator.num_devices * config.train.microbatches


def _smallest_remedy(config: Config, refused: Plan, larger_slices: bool) -> Plan | None:
    """Return the first plan that fits of those that cost and change the least first.

    Remat changes no result and costs a fifth more work; microbatches change it to rounding and leave the devices
    smaller parts; bfloat16 changes it more; a larger slice is the last resort.
    """
    accelerator = accelerators.find(refused.accelerator)
    more_remat = _more_remat(config)
    # With as many microbatches, what keeps more is less work; without remat they would have to be many.
    kinds = [refused] if config.model.remat or not more_remat else []
    for changes in more_remat:
        kinds.append(plan_step(config, accelerator, refused.quick, changes))
        if kinds[-1].fits:
            return kinds[-1]
    found = _with_fewest_microbatches(config, *kinds)
    if found is None and config.train.compute_dtype == "float32":
        changes = kinds[-1].changes | {"train.compute_dtype": "bfloat16"}
        if parts := microbatches(config, accelerator):
            changes["train.microbatches"] = parts[-1]
        found = plan_step(config, accelerator, refused.quick, changes)
    if found is not None and found.fits:
        return found
    larger = accelerators.next_larger(accelerator) if larger_slices else None
    while larger is not None and config.train.batch_size % _least_batch(config, larger) == 0:
        for changes in ({}, *more_remat):
            plan = plan_step(config, larger, refused.quick, changes)
            if plan.fits:
                return plan
        larger = accelerators.next_larger(larger)
    return None


def _more_remat(config: Config) -> list[dict[str, Any]]:
    """Return the changes with which less is kept for the backward pass, the most that is kept first."""
    if config.model.network != "unet":
        return []
    remat: dict[str, Any] = {} if config.model.remat else {"model.remat": True}
    less = [remat] if remat else []
    return less if config.model.remat_keeps == "nothing" else [*less, remat | {"model.remat_keeps": "nothing"}]


def _with_fewest_microbatches(config: Config, *plans: Plan) -> Plan | None:
    """Return the first of some plans that fits, else one with the fewest microbatches beside its changes that does."""
    for plan in plans:
        if plan.fits:
            return plan
    accelerator = accelerators.find(plans[0].accelerator)
    last = [(plan, config.train.microbatches) for plan in plans]
    for parts in microbatches(config, accelerator):
        for kind, (plan, of_plan) in enumerate(last):
            # Doubling the parts saves half the memory at most: what needs more is not worth the compiler's time.
            if plan.peak_bytes_per_device * of_plan / parts > 2 * plan.hbm_bytes_per_device:
                continue
            found = plan_step(config, accelerator, plan.quick, plan.changes | {"train.microbatches": parts})
            if found.fits:
                return found
            last[kind] = found, parts
    return None


def microbatches(config: Config, accelerator: Accelerator) -> list[int]:
    """Return the powers of two, more than the config has microbatches, that the images of a device divide into."""
    images = config.train.batch_size // accelerator.num_devices
    powers = (2**n for n in range(1, images.bit_length()))
    return [parts for parts in powers if parts > config.train.microbatches and images % parts == 0]


def request(config: Config, accelerator: Accelerator, quick: bool = False) -> dict[str, Any]:
    """Return what `planning.compile` reads: config, topology, options and effort of the compilation for a slice."""
    # On a TPU `auto` loops over the layers; the process that compiles sees only this machine's CPU.
    if config.model.scan_layers == "auto" and config.model.network == "unet":
        config = configs.override(config, {"model.scan_layers": "on"})
    generation = accelerator.generation
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation.name in ("v4", "v5p") else {}
    if generation.units_per_chip == 1 and accelerator.num_chips in (1, 8):
        options["chips_per_host_bounds"] = (1, 1, 1) if accelerator.num_chips == 1 else (2, 4, 1)
    return {
        "config": configs.to_json(config),
        "topology": f"{generation.compiler_name}:{accelerator.topology}",
        "options": options,
        "quick": quick,
    }


def _compile(config: Config, accelerator: Accelerator, quick: bool) -> dict[str, Any]:
    what = f"the step of {config.name}", f"for {accelerator.name}"
    return _answer(json.dumps(request(config, accelerator, quick)), *what)


@cache  # a way that is looked at twice takes minutes once
def _answer(request: str, step: str, where: str) -> dict[str, Any]:
    """Return what the process that compiles answers to a request."""
    try:
        done = subprocess.run(
            ending_with_parent(COMPILER),
            input=request,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        hours = _COMPILE_TIMEOUT_S / 3600
        raise VdmError(f"{step} is not compiled {where} after {hours:.0f} hours: try --quick") from None
    if done.returncode:
        # After the reason jax may print a line under it and how to see more of the traceback.
        said = [line for line in done.stderr.strip().splitlines() if not line.startswith(("---", "For simplicity"))]
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise VdmError(f"{step} does not compile {where}: {reason:.300}")
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(ANSWER):
            return json.loads(line.removeprefix(ANSWER))
    raise VdmError(f"{step} does not compile {where}: the compiler ended without an answer")
