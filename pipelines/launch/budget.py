"""How long machines may be held, by time or by price; and how long they were."""

import math
import time
from dataclasses import dataclass, field

from vdm_lib.errors import ConfigError


@dataclass
class Budget:
    """Hours that a slice may be held, over all the machines that follow each other.

    Attributes:
        limit_hours: at most this long.
        usd_per_hour: price of the slice, None if it is not known.
    """

    limit_hours: float
    usd_per_hour: float | None = None
    _held_s: float = field(default=0.0, init=False)
    _since: float | None = field(default=None, init=False)

    @classmethod
    def of(cls, max_hours: float, max_cost_usd: float | None, usd_per_hour: float | None, what: str) -> "Budget":
        """Return the budget that keeps both limits.

        Raises:
          ConfigError: a limit that is no positive number, or a cost without a price to reckon with.
        """
        limits = [max_hours] if max_cost_usd is None else [max_hours, max_cost_usd]
        if not all(math.isfinite(limit) and limit > 0 for limit in limits):
            raise ConfigError("--max-hours and --max-cost must be positive numbers")
        if max_cost_usd is None:
            return cls(max_hours, usd_per_hour)
        if usd_per_hour is None:
            raise ConfigError(
                f"--max-cost needs the price of {what}, and pipelines/planning/accelerator_prices.toml has none: "
                "look it up and enter it, or use --max-hours"
            )
        return cls(min(max_hours, max_cost_usd / usd_per_hour), usd_per_hour)

    def start(self) -> None:
        """Count from now on."""
        self._since = time.time() if self._since is None else self._since

    def pause(self) -> None:
        """Count no more: the machines are gone."""
        if self._since is not None:
            self._held_s += time.time() - self._since
        self._since = None

    @property
    def hours(self) -> float:
        """Hours held so far."""
        return (self._held_s + (0.0 if self._since is None else time.time() - self._since)) / 3600

    @property
    def left_hours(self) -> float:
        """Hours left, 0 at least."""
        return max(0.0, self.limit_hours - self.hours)

    @property
    def usd(self) -> float | None:
        """What the hours come to by the price file; no quote."""
        return None if self.usd_per_hour is None else self.hours * self.usd_per_hour

    def end_by(self, time_s: float) -> None:
        """Shorten the limit so that it ends at a time (seconds since 1970) at the latest."""
        self.limit_hours = min(self.limit_hours, self.hours + max(0.0, (time_s - time.time()) / 3600))
