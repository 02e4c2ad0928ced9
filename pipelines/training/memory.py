"""Out of memory: which value of the config to change, with the numbers."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.sharding import Mesh

from pipelines.training.program import Program
from vdm_lib.config import Config
from vdm_lib.errors import MachineError
from vdm_lib.feed import device_memory_bytes


def memory_bytes(mesh: Mesh) -> int:
    """Return the memory of a device; on CPU the devices of a process share the memory of the machine."""
    known = device_memory_bytes(mesh)
    if known is not None:
        return known
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(mesh.local_devices)


def used_bytes(mesh: Mesh) -> int:
    """Return the memory in use on the first device of this process; on CPU the largest that the process has had."""
    stats = mesh.local_devices[0].memory_stats()
    if stats is not None:
        return int(stats["bytes_in_use"])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def check_fits(program: Program, config: Config, mesh: Mesh) -> None:
    """Raise MachineError if the compiled step needs more memory than a device has."""
    there = memory_bytes(mesh)
    if program.peak_bytes > there:
        raise MachineError(
            f"a training step needs {_gb(program.peak_bytes)} on each device, of which the state takes "
            f"{_gb(program.state_bytes)}; there are {_gb(there)}: {advice(config, mesh)}"
        )


@contextmanager
def out_of_memory_explained(config: Config, mesh: Mesh) -> Iterator[None]:
    """Turn an allocation that failed inside the block into one line that says what to change.

    Raises:
      MachineError: out of memory.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        reason = " ".join(text.replace("RESOURCE_EXHAUSTED:", "").split())[:160] or "no more memory"
        raise MachineError(
            f"out of memory ({reason}); each device has {_gb(memory_bytes(mesh))}: {advice(config, mesh)}"
        ) from error


def advice(config: Config, mesh: Mesh) -> str:
    """Return which values lower the memory of a step, what changes no result first."""
    train, each = config.train, config.train.batch_size // mesh.size
    knobs = []
    # Halving the images that are worked on at once about halves the activations.
    parts = train.microbatches * 2
    if each % parts == 0:
        knobs.append(f"train.microbatches={parts} ({each // parts} instead of {each // train.microbatches} images of "
                     f"a device at once)")  # fmt: skip
    if not config.model.remat:
        knobs.append("model.remat=true (activations formed twice, about a third more time)")
    if train.shard == "replicated" and mesh.size > 1:
        knobs.append(f"train.shard=zero (3/4 of the state divided by {mesh.size} devices)")
    if train.data_place != "host":
        knobs.append("train.data_place=host (training images stay on the host)")
    if not knobs or train.batch_size > mesh.size:
        knobs.append(f"a smaller train.batch_size than {train.batch_size} (another run)")
    return "set " + ", or ".join(knobs)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
