"""The codec of a trained model, made from settings or from the header of a file, and what proves that both agree."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import configs
from pipelines import run_dir
from pipelines.compression.header import MOST_IMAGES_A_BATCH, MOST_STEPS, Header, Settings
from vdm_lib import load
from vdm_lib.compression.chunk import Codec, encode_chunk
from vdm_lib.compression.ladder import Ladder
from vdm_lib.compression.network import Network, images_per_call
from vdm_lib.compression.stack import coder_version, seed_words
from vdm_lib.config import Config
from vdm_lib.errors import CheckpointError, ConfigError, MachineError
from vdm_lib.export.functions import unflatten_params
from vdm_lib.files.checksums import params_digest
from vdm_lib.model import VDM
from vdm_lib.types import Params

# More than there are cores, as a rule: none of them waits long for the others.
_CALLS_A_BATCH = 4


@dataclass(frozen=True, eq=False)
class Subject:
    """The model."""

    config: Config
    params: Params
    step: int
    digest: str

    @property
    def model(self) -> VDM:
        """What the config describes."""
        return VDM.from_config(self.config)


def load_subject(path: str, step: int | None = None) -> Subject:
    """Return the model of a bundle or a run.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    loaded = load(path, step)
    params = unflatten_params(loaded.params)
    return Subject(loaded.config, params, loaded.step, params_digest(params))


def make_settings(subject: Subject, steps: int, batch_size: int | None, first_batch: int | None) -> Settings:
    """Return settings; what is not given fits the model and the device.

    Raises:
      ConfigError: a number out of its range.
    """
    sizes = images_per_call(subject.model)
    batch_size = _CALLS_A_BATCH * sizes[0] if batch_size is None else batch_size
    first_batch = min(sizes[-1], batch_size) if first_batch is None else first_batch
    for name, value, most in (
        ("--steps", steps, MOST_STEPS),
        ("--batch", batch_size, MOST_IMAGES_A_BATCH),
        ("--first-batch", first_batch, batch_size),
    ):
        if not 1 <= value <= most:
            raise ConfigError(f"{name} must lie in 1..{most}, got {value}")
    return Settings(steps, batch_size, first_batch, tuple(dict.fromkeys(min(size, batch_size) for size in sizes)))


@dataclass(frozen=True, eq=False)
class Ready:
    """A codec that can run, and the facts about it that a file records."""

    codec: Codec
    computing: Mapping[str, Any]
    probe: str


def make_ready(subject: Subject, settings: Settings) -> Ready:
    """Compile the network and return the codec.

    Raises:
      ConfigError: a model that cannot be used so.
      MachineError: constriction is not installed.
    """
    version = coder_version()
    network = Network(subject.model, subject.params, settings.images_per_call)
    gammas = network.gammas(settings.steps)
    codec = Codec(
        ladder=Ladder.of(gammas.astype(np.float64), settings.bins_per_std),
        network=network,
        num_levels=subject.config.data.num_levels,
        batch_size=settings.batch_size,
        first_batch=settings.first_batch,
    )
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    computing = {
        **network.settings(),
        **versions,
        "constriction": version,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    probe = hashlib.sha256((network.probe(gammas) + _coder_probe(codec)).encode()).hexdigest()
    return Ready(codec, computing, probe)


def _coder_probe(codec: Codec) -> str:
    """Return a digest of the code of two fixed images under a network that is a formula: everything but the network."""
    known = seed_words(2 * 16, b"images").reshape(2, 4, 4, 1) % codec.num_levels

    def formula(z: np.ndarray, gamma: float) -> np.ndarray:
        return (z * 0.5).astype(np.float32)

    plain = Codec(codec.ladder, formula, codec.num_levels, 2, 2)
    return hashlib.sha256(encode_chunk(plain, 0, known.astype(np.uint8)).words.astype("<u4").tobytes()).hexdigest()


def header_of(subject: Subject, settings: Settings, ready: Ready, model_path: str) -> dict[str, Any]:
    """Return what a file says about how it was made."""
    return {
        "model": {"path": model_path, "step": subject.step, "digest": subject.digest, "name": subject.config.name},
        "config": json.loads(configs.to_json(subject.config)),
        "image_shape": list(subject.config.data.image_shape),
        "num_levels": subject.config.data.num_levels,
        "settings": asdict(settings),
        "computing": dict(ready.computing),
        "probe": ready.probe,
        "made_by": run_dir.code_version(),
    }


def check_subject(subject: Subject, header: Header, file: str) -> None:
    """Accept the model that a file was made with.

    Raises:
      CheckpointError: it is another one.
    """
    made_with = header.model
    if subject.digest != made_with.digest:
        raise CheckpointError(
            f"{file} was made with step {made_with.step} of {made_with.path} ({made_with.name}, parameters "
            f"{made_with.digest[:12]}), this model is step {subject.step} with {subject.digest[:12]}: "
            "give --model and --step of that one"
        )
    if subject.config.data.image_shape != header.image_shape:
        raise CheckpointError(
            f"{file} holds images of {header.image_shape}, its model makes images of {subject.config.data.image_shape}"
        )


def check_ready(ready: Ready, header: Header, file: str) -> None:
    """Accept a codec that computes here what it computed for the encoder, to the last bit, on fixed latents.

    Raises:
      MachineError: it does not.
    """
    if ready.probe == header.probe:
        return
    here, there = dict(ready.computing), header.computing
    other = ", ".join(
        f"{name} {there[name]} (here {here.get(name)})" for name in there if here.get(name) != there[name]
    )
    raise MachineError(
        f"{file} cannot be decoded here: the network gives other bits than where it was made. "
        + (f"It was made with {other}" if other else "The processor is of another kind than the one that made it")
    )
