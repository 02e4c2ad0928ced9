"""Joining the processes of one run: by themselves on a TPU VM, by explicit flags elsewhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from vdm_lib.errors import ConfigError, MachineError


@dataclass(frozen=True)
class Cluster:
    """Which process of how many this is; all None: whatever the machine says.

    Attributes:
        coordinator: host:port on which process 0 can be reached.
        num_processes: processes of the run.
        process_id: this one, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError if only some are given, or the id is not one of them."""
        number, count = self.process_id, self.num_processes
        given = [value is not None for value in (self.coordinator, count, number)]
        if any(given) and not all(given):
            raise ConfigError("--coordinator, --num-processes and --process-id go together: give all three or none")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigError(f"--coordinator is host:port, got {self.coordinator!r}")
        if number is not None and count is not None and not 0 <= number < count:
            raise ConfigError(f"--process-id lies in 0..{count - 1}, got {number}")


def on_tpu_vm() -> bool:
    """Return whether this is a host of a TPU slice: it has TPU chips, or is told to act as one."""
    if os.environ.get("JAX_FORCE_TPU_INIT"):
        return True
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    return bool(list(Path("/dev").glob("accel[0-9]*")) or list(Path("/dev/vfio").glob("[0-9]*")))


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Join the other processes for the time of the block; must come before anything else of jax.

    Raises:
      MachineError: the others cannot be reached.
    """
    explicit = cluster.coordinator is not None
    if not explicit and not on_tpu_vm():
        yield
        return
    try:
        if explicit:
            jax.distributed.initialize(cluster.coordinator, cluster.num_processes, cluster.process_id)
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise MachineError(f"cannot join the other processes of the run: {line}") from error
    # Left joined if an error comes out of the block: the others may wait for this process in vain, and leaving waits
    # for them.
    yield
    jax.distributed.shutdown()
