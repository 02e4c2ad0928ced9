"""From the metrics of each step to the rows of the record: means, speed, memory, and whether all is well."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pipelines.memory import used_bytes
from vdm_lib.config import Config
from vdm_lib.errors import DivergedError
from vdm_lib.health import Health
from vdm_lib.metrics import mean_metrics

_PEAK_SIZES = {"cpu": 1024}
_PEAK_SIZE = 8192


def peak_flops(config: Config, mesh: Mesh) -> float:
    """Return the FLOP/s of a large matrix product on this machine over all devices: what utilisation is a share of.

    Measured, in train.compute_dtype and the default precision; the devices of a process on CPU share its cores.
    """
    device = mesh.local_devices[0]
    size = _PEAK_SIZES.get(device.platform, _PEAK_SIZE)
    a = jax.device_put(jnp.ones((size, size), config.train.compute_dtype), device)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - started)
    units = jax.process_count() if device.platform == "cpu" else mesh.size
    return 2.0 * size**3 / best * units


def summary(row: Mapping[str, float]) -> tuple[str, ...]:
    """Return what a row says on one line."""
    return (
        f"training bpd {row['bpd']:.3f}",
        f"{row['steps_per_s']:.3g} steps/s",
        f"{row['images_per_s']:.4g} images/s",
        f"{100 * row['flops_utilization']:.0f} % of the matmul peak",
    )


class Watch:
    """Collects the metrics of the steps and makes rows of them; the same on all processes."""

    def __init__(self, config: Config, mesh: Mesh, flops: float, health: Health, first: int) -> None:
        """Begin after step `first`; `flops` is the work of one step."""
        self._config, self._mesh, self._flops, self._health, self._done = config, mesh, flops, health, first
        self._peak_flops = peak_flops(config, mesh)
        self._pending: list[Mapping[str, Any]] = []
        self._started = time.monotonic()

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of the next step; waits for the step before it, so that at most one is queued."""
        if self._pending:
            jax.block_until_ready(self._pending[-1])
        self._pending.append(metrics)

    def row(self) -> dict[str, float]:
        """Return the means over the steps since the last row, with speed and memory.

        Raises:
          DivergedError: a step went wrong; see `Health.check`.
        """
        rows = [{key: float(value) for key, value in row.items()} for row in jax.device_get(self._pending)]
        skipped_before = self._health.skipped
        usable = self._health.check(rows, self._done + 1)
        steps_per_s = len(rows) / (time.monotonic() - self._started)
        if not usable:
            raise DivergedError(f"no step of the last {len(rows)} up to {self._done + len(rows)} had finite losses")
        row = mean_metrics(usable)
        if self._config.train.on_nan == "skip":
            row["skipped_steps"] = self._health.skipped - skipped_before
        self._done += len(rows)
        self.restart_clock()
        self._pending = []
        return row | {
            "steps_per_s": steps_per_s,
            "images_per_s": steps_per_s * self._config.train.batch_size,
            "flops_utilization": steps_per_s * self._flops / self._peak_flops,
            "memory_bytes": used_bytes(self._mesh),
        }

    def restart_clock(self) -> None:
        """Begin the interval of the next row now, so that writing does not count as training."""
        self._started = time.monotonic()
