"""What `vdm plan` finds, and how it is shown: for people, and as a table in Markdown."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_GIB = 2**30
# Images lie in the axis that a TPU stores in rows of so many: 12 take the memory, and nearly the time, of 16.
_IMAGES_OF_A_ROW = 8


@dataclass(frozen=True)
class Plan:
    """What one training step of a config is on one slice.

    Attributes:
        config: name of the experiment.
        accelerator: the slice, such as v3-64.
        asked: values that were asked for other than the experiment's own.
        changes: values of the config that had to be other than asked for, `{}` if none.
        fits: the compiler placed the step in the memory of a device.
        peak_bytes_per_device: memory that the step needs on each device.
        hbm_bytes_per_device: memory that each device has for it.
        images_at_once: images of one microbatch on one device.
        flops_per_step: work of a step over all devices, remat's repetitions included.
        step_seconds_roofline: an estimate of the best possible step, not a measurement.
        bound: what sets that time: compute or memory.
        train_hours_roofline: that time over train.steps.
        price_usd_roofline: list price of these hours by the price file, no quote; None if it has none.
        prices_as_of: date of the price file.
        collectives: operations between devices in the compiled program, by kind; inside a loop counted once.
        compile_seconds: wall time of the compiler here.
        cycles_estimated: what the compiler believes one device takes for a step, without what goes between devices;
            None if it does not say.
        quick: the compiler made its least effort; the memory of `vdm train` there differs by up to an eighth.
        remedy: if it does not fit, the smallest change found that does, compiled as well.
        failed: what was to be compiled besides and could not, with the reasons.
        quickest: of this or its remedy and the other ways, the changes of the one that the compiler takes for the
            quickest; None if nothing was compared.
        other_ways: if asked for, what fits with other kinds of remat than this or its remedy has.
    """

    config: str
    accelerator: str
    changes: dict[str, Any]
    fits: bool
    peak_bytes_per_device: int
    hbm_bytes_per_device: int
    images_at_once: int
    flops_per_step: float
    step_seconds_roofline: float
    bound: str
    train_hours_roofline: float
    price_usd_roofline: float | None
    prices_as_of: str
    collectives: dict[str, int]
    compile_seconds: float
    cycles_estimated: int | None = None
    quick: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    remedy: "Plan | None" = None
    other_ways: "tuple[Plan, ...]" = ()
    failed: tuple[str, ...] = ()
    quickest: dict[str, Any] | None = None

    @property
    def usable(self) -> "Plan | None":
        """Return this plan if it fits, else its remedy, None if there is none."""
        return self if self.fits else self.remedy

    def __str__(self) -> str:
        """Return some lines for a person."""
        given = self.asked | self.changes
        words = f" with {words_of(given)}" if given else ""
        memory = f"{_gib(self.peak_bytes_per_device)} of {_gib(self.hbm_bytes_per_device)} GiB on each device"
        lines = [
            f"{self.config} on {self.accelerator}{words}: {'fits' if self.fits else 'does not fit'}, {memory}",
            f"  {self.flops_per_step / 1e12:,.4g} TFLOP a step; at best {_seconds(self.step_seconds_roofline)} a step "
            f"({self.bound} bound, a roofline and no measurement)",
            f"  at best {_hours(self.train_hours_roofline)} for all steps; {self._price()}",
        ]
        if self.fits:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.collectives.items())) or "none"
            how = " with the least effort: the memory of training differs by up to an eighth" if self.quick else ""
            lines.append(f"  between devices: {kinds}; compiled in {self.compile_seconds:.0f} s{how}")
            if cycles := _million_cycles(self):
                lines.append(f"  {cycles} million cycles a step by the compiler's own estimate")
            if self._places > self.images_at_once:
                lines.append(
                    f"  {self.images_at_once} images at a time on each device, which has them in rows of "
                    f"{_IMAGES_OF_A_ROW}: {self._places} take hardly longer"
                )
        elif self.remedy is None:
            lines.append("  no change was found that makes it fit")
        if self.remedy is not None:
            lines += ["the smallest change found that fits:", str(self.remedy)]
        lines += [f"not found out: {why}" for why in self.failed]
        for plan in self.other_ways:
            lines += ["another way:", str(plan)]
        if self.quickest is not None:
            values = words_of(self.quickest) or "the values asked for"
            lines.append(f"the quickest of these by the compiler's estimate: {values}")
        return "\n".join(lines)

    @property
    def _places(self) -> int:
        return math.ceil(self.images_at_once / _IMAGES_OF_A_ROW) * _IMAGES_OF_A_ROW

    def _price(self) -> str:
        if self.price_usd_roofline is None:
            return "no price: pipelines/planning/accelerator_prices.toml has none for this generation"
        price = f"${self.price_usd_roofline:,.0f}" if self.price_usd_roofline >= 1 else "under $1"
        return f"{price} by the price file of {self.prices_as_of}, which is no quote"


@dataclass(frozen=True)
class PlanRanking:
    """The same config on several slices, quickest first; those on which it cannot run last.

    Attributes:
        config: name of the experiment.
        plans: one for each slice.
        refused: slice -> why there is no plan for it.
    """

    config: str
    plans: tuple[Plan, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        """Return the plans below each other."""
        lines = [str(plan) for plan in self.plans]
        return "\n".join(lines + [f"{name}: {why}" for name, why in self.refused.items()])

    def markdown(self) -> str:
        """Return a table: a row for each slice as asked for, for the change that makes it fit, for what is refused."""
        heads = ("config", "slice", "changes", "fits", "peak / HBM GiB per device", "TFLOP a step", "roofline a step",
                 "Mcycles estimated", "hours at best", "US$ at best")  # fmt: skip
        rows = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
        for plan in self.plans:
            rows += [
                _row(each, each.fits and each.changes == plan.quickest)
                for each in (plan, plan.remedy, *plan.other_ways)
                if each is not None
            ]
        rows += [f"| {self.config} | {name} | | {why} | | | | | | |" for name, why in self.refused.items()]
        return "\n".join(rows)


def quickest_changes(plan: Plan) -> dict[str, Any] | None:
    """Return what `Plan.quickest` is: cycles compare programs for one slice only."""
    ways = [each for each in (plan.usable, *plan.other_ways) if each is not None and each.cycles_estimated]
    if len(ways) < 2 or len({each.accelerator for each in ways}) > 1:
        return None
    return min(ways, key=lambda each: each.cycles_estimated or 0).changes


def rank(config: str, plans: list[Plan], refused: dict[str, str]) -> PlanRanking:
    """Return the plans by the time of what can be run, then by its price."""

    def key(plan: Plan) -> tuple[bool, float, float]:
        usable = plan.usable or plan
        return plan.usable is None, usable.train_hours_roofline, usable.price_usd_roofline or 0.0

    return PlanRanking(config, tuple(sorted(plans, key=key)), refused)


def _row(plan: Plan, quickest: bool) -> str:
    price = plan.price_usd_roofline
    cycles = f"**{_million_cycles(plan)}**" if quickest else _million_cycles(plan)
    cells = (
        plan.config, plan.accelerator, words_of(plan.asked | plan.changes) or "as it is", "yes" if plan.fits else "no",
        f"{_gib(plan.peak_bytes_per_device)} / {_gib(plan.hbm_bytes_per_device)}", f"{plan.flops_per_step / 1e12:,.4g}",
        f"{_seconds(plan.step_seconds_roofline)}, {plan.bound}", cycles, _whole(plan.train_hours_roofline),
        "not known" if price is None else _whole(price),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def words_of(changes: Mapping[str, Any]) -> str:
    """Return values as they are given on the command line."""
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items())


def _million_cycles(plan: Plan) -> str:
    """Return '' also for the least effort, whose programs are slower than what is trained."""
    if plan.cycles_estimated is None or plan.quick:
        return ""
    millions = plan.cycles_estimated / 1e6
    return f"{millions:,.0f}" if millions >= 1000 else f"{millions:.4g}"


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else "under 1"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} hours" if hours >= 1 else "under an hour"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
