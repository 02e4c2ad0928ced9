"""A training step that does not fit: which value of the config to change, with the numbers."""

from jax.sharding import Mesh

from pipelines.memory import gigabytes, memory_bytes
from pipelines.training.program import Program
from vdm_lib.config import Config
from vdm_lib.errors import MachineError
from vdm_lib.model import loops_over_layers


def check_fits(program: Program, config: Config, mesh: Mesh) -> None:
    """Raise MachineError if the compiled step needs more memory than a device has."""
    there = memory_bytes(mesh)
    if program.peak_bytes > there:
        raise MachineError(
            f"a training step needs {gigabytes(program.peak_bytes)} on each device, of which the state takes "
            f"{gigabytes(program.state_bytes)}; there are {gigabytes(there)}: {advice(config, mesh)}"
        )


def advice(config: Config, mesh: Mesh) -> str:
    """Return which values lower the memory of a step, what changes no result first."""
    train, each = config.train, config.train.batch_size // mesh.size
    knobs = []
    # Halving the images that are worked on at once about halves the activations.
    parts = train.microbatches * 2
    if each % parts == 0:
        knobs.append(f"train.microbatches={parts} ({each // parts} instead of {each // train.microbatches} images of "
                     f"a device at once)")  # fmt: skip
    # Where layers are not looped over, on CPU, XLA forms nothing again: it finds it formed already.
    looped = loops_over_layers(config.model)
    costly = config.model.remat_keeps == "costly"
    if looped and not config.model.remat:
        twice = "all but the costly" if costly else "a fifth more work"
        knobs.append(f"model.remat=true (activations formed twice, {twice})")
    elif looped and costly:
        knobs.append("model.remat_keeps=nothing (all activations of a block formed twice)")
    if train.shard == "replicated" and mesh.size > 1:
        knobs.append(f"train.shard=zero (3/4 of the state divided by {mesh.size} devices)")
    if train.data_place != "host":
        knobs.append("train.data_place=host (training images stay on the host)")
    if not knobs or train.batch_size > mesh.size:
        knobs.append(f"a smaller train.batch_size than {train.batch_size} (another run)")
    return "set " + ", or ".join(knobs)
