"""Memory of the devices: how much there is, what a compiled program takes, and what is said when it is not enough."""

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

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


def peak_bytes(compiled: Compiled) -> int:
    """Return what each device holds while a program runs: arguments, results, temporaries and code.

    Arguments and results count once where they share buffers.
    """
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def one_device() -> Mesh:
    """Return the mesh of the device that runs what is given no mesh."""
    return Mesh(np.asarray(jax.local_devices()[:1]), ("data",))


def check_program_fits(compiled: Compiled, mesh: Mesh, advice: str) -> None:
    """Raise MachineError with advice if a compiled program needs more memory than a device has."""
    needed, there = peak_bytes(compiled), memory_bytes(mesh)
    if needed > there:
        raise MachineError(f"too little memory: {gigabytes(needed)} are needed, there are {gigabytes(there)}: {advice}")


@contextmanager
def out_of_memory_explained(mesh: Mesh, advice: Callable[[], str]) -> Iterator[None]:
    """Turn an allocation that failed inside the block into one line that says what to change.

    Args:
      mesh: the devices in use.
      advice: what to change, in words.

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
            f"out of memory ({reason}); each device has {gigabytes(memory_bytes(mesh))}: {advice()}"
        ) from error


def gigabytes(num_bytes: int) -> str:
    """Return `1.50 GB`."""
    return f"{num_bytes / 1e9:.2f} GB"
