"""List prices of TPU chips, from a dated file that the user edits; an aid to compare slices, never a quote."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.planning.accelerators import GENERATIONS, Accelerator
from vdm_lib.errors import ConfigError

FILE = Path(__file__).with_name("accelerator_prices.toml")


@dataclass(frozen=True)
class Prices:
    """US dollars per chip and hour.

    Attributes:
        as_of: date of the file.
        on_demand, spot: by generation; one that is not there is not known.
    """

    as_of: str
    on_demand: dict[str, float]
    spot: dict[str, float]


def read(file: Path = FILE) -> Prices:
    """Return the price file.

    Raises:
      ConfigError: it cannot be read, or has an entry that is no price of a generation.
    """
    try:
        content = tomllib.loads(file.read_text())
        if unknown := set(content) - {"as_of", "on_demand", "spot"}:
            raise ValueError(f"{min(unknown)} is none of its tables")
        return Prices(str(content["as_of"]), _table(content, "on_demand"), _table(content, "spot"))
    except (OSError, tomllib.TOMLDecodeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file}: {error}: it needs as_of, and tables on_demand and spot of US dollars per chip and hour"
        ) from error


def _table(content: dict[str, Any], name: str) -> dict[str, float]:
    table = content.get(name, {})
    for generation, price in table.items():
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if generation not in GENERATIONS or not number or not math.isfinite(price) or price <= 0:
            raise ValueError(f"{name}.{generation} = {price!r}")
    return {generation: float(price) for generation, price in table.items()}


def usd_per_hour(accelerator: Accelerator, provisioning: str = "on-demand", file: Path = FILE) -> float | None:
    """Return the price of a whole slice, None if it is not known.

    Spot without a price of its own is reckoned at the price on demand, which it does not exceed.
    """
    prices = read(file)
    generation = accelerator.generation.name
    price = prices.on_demand.get(generation)
    if provisioning == "spot":
        price = prices.spot.get(generation, price)
    return None if price is None else price * accelerator.num_chips
