"""A trained model for notebooks and other programs: what a bundle or a run directory holds, ready to be called."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, Shaped, UInt8

from vdm_lib.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from vdm_lib.errors import CheckpointError, ConfigError
from vdm_lib.export import functions
from vdm_lib.files.storage import storage_errors
from vdm_lib.labels import Wanted, checked_labels, labels_to_draw
from vdm_lib.model import VDM, count_params
from vdm_lib.restore import restore_ema
from vdm_lib.samplers.sampler import ANCESTRAL, Sampler


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained variational diffusion model; b images of h x w x c are arrays [b, h, w, c].

    Its functions are compiled on their first call for a shape, and computed in float32. They give what the files of
    a bundle give for the same seeds.
    """

    config: Config
    """The experiment: `config.data.image_shape`, `config.data.num_levels`, `config.model` and so on."""
    step: int
    """Updates behind the parameters."""
    params: dict[str, Any]
    """The moving average of the parameters, float32 arrays by their names joined by '/'."""

    def sample(
        self,
        num: int,
        *,
        steps: int = 250,
        seed: int = 0,
        sampler: Sampler = ANCESTRAL,
        label: Wanted | None = None,
    ) -> UInt8[np.ndarray, "b h w c"]:
        """Return images by ancestral sampling, draws of p(z_s | z_t), App. A.4 of arXiv 2107.00630, or another sampler.

        Image i depends on the seed, the steps, its class and i alone, not on num. The files of a bundle sample
        ancestrally.

        Args:
            num: images, b.
            steps: steps from t = 1 to t = 0; each calls the network once. More are better and take longer.
            seed: 0 to 2^32 - 1.
            sampler: such as Sampler(solver="dpm_sde"), which needs fewer steps; Sampler(guidance=1.0) pulls towards the
                class.
            label: of a class-conditional model: one class, one for each image, or `all` in turn; None tells none.

        Returns:
            Levels 0 to num_levels - 1, uint8.

        Raises:
            ConfigError: num or steps below 1, a seed outside its range, a class that the model does not have, or
                guidance without one.
        """
        _check("num", num, 1)
        _check("steps", steps, 1)
        z_1, key_data = functions.start(self._model, num, _seed(seed))
        labels = labels_to_draw(self.config.model, label, num, sampler.guidance)
        return np.asarray(self._call("images", z_1, key_data, np.int32(steps), labels, None, sampler))

    def bpd(
        self,
        images: Shaped[np.ndarray, "..."],
        *,
        passes: int = 1,
        seed: int = 0,
        labels: int | Sequence[int] | Shaped[np.ndarray, "..."] | None = None,
    ) -> Float[np.ndarray, " b"]:
        """Return an estimate of the bound on -log p(x) of each image in bits per dimension, Eq. (11).

        A single estimate varies strongly with its time and noise: its mean over images or passes is what counts. The
        bits per dimension of a test set with their error are measured by `vdm eval`.

        Args:
            images: levels 0 to num_levels - 1, [b, h, w, c], any integer type.
            passes: estimates that are averaged, each with times and noise of its own.
            seed: 0 to 2^32 - 1.
            labels: of a class-conditional model: the class of each image, or one for all; None tells none.

        Returns:
            Bits per dimension, float32.

        Raises:
            ConfigError: images of another shape or type or with levels out of range, passes below 1, a bad seed,
                or labels that the model does not have.
        """
        images = self._checked(images)
        _check("passes", passes, 1)
        seeds = np.random.SeedSequence(int(_seed(seed))).generate_state(passes)
        told = self._labels(labels, len(images))
        estimates = [np.asarray(self._call("bpd", images, each, told), np.float64) for each in seeds]
        return np.mean(estimates, axis=0).astype(np.float32)

    def eps(
        self,
        z: Shaped[np.ndarray, "..."] | Shaped[jax.Array, "..."],
        gamma: Float[np.ndarray, " b"] | Float[jax.Array, " b"] | float,
        conditioning: Float[np.ndarray, " b"] | Float[jax.Array, " b"] | float = 0.0,
        labels: int | Sequence[int] | Shaped[np.ndarray, "..."] | None = None,
    ) -> Float[np.ndarray, "b h w c"]:
        """Return the network's estimate of the noise eps in z = alpha x + sigma eps, Eq. (1).

        Args:
            z: noisy images, [b, h, w, c].
            gamma: -log SNR of z, so that sigma^2 = sigmoid(gamma); one for all images or one for each.
            conditioning: 1 where augmentation touched the image, else 0.
            labels: of a class-conditional model: the class of each image, or one for all; None tells none.

        Returns:
            float32; about standard normal where z is noise alone.

        Raises:
            ConfigError: z of another shape, or labels that the model does not have.
        """
        if z.ndim != 4 or tuple(z.shape[1:]) != self.config.data.image_shape:
            raise ConfigError(f"z must have the shape (b, *{self.config.data.image_shape}), got {tuple(z.shape)}")
        per_image = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), z.shape[:1]) for x in (gamma, conditioning)]
        return np.asarray(
            self._call("eps_hat", jnp.asarray(z, jnp.float32), *per_image, self._labels(labels, z.shape[0]))
        )

    def gamma(self, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return -log SNR at times t in [0, 1], the noise schedule of Sec. 3."""
        params = functions.unflatten_params(self.params)
        return np.asarray(self._model.gamma(params, jnp.asarray(t, jnp.float32)))

    @property
    def _model(self) -> VDM:
        return VDM.from_config(self.config)

    def _call(self, name: str, *arguments: Any) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return getattr(functions.jitted(self._model), name)(self.params, *arguments)

    def _labels(self, labels: Any, num_images: int) -> np.ndarray | None:
        return None if labels is None else checked_labels(self.config.model, labels, num_images)

    def _checked(self, images: Any) -> np.ndarray:
        images = np.asarray(images)
        shape, num_levels = self.config.data.image_shape, self.config.data.num_levels
        if images.ndim != 4 or images.shape[1:] != shape or not np.issubdtype(images.dtype, np.integer):
            raise ConfigError(f"images must be integers of the shape (b, *{shape}), got {images.dtype} {images.shape}")
        if images.size and not 0 <= images.min() <= images.max() < num_levels:
            raise ConfigError(f"levels must lie in 0..{num_levels - 1}, got {images.min()}..{images.max()}")
        return images.astype(np.uint8)

    def __repr__(self) -> str:
        return f"LoadedModel({self.config.name}, step {self.step:,}, {count_params(self.params):,} parameters)"


def load(path: str, step: int | None = None) -> LoadedModel:
    """Return the model that a place holds.

    Args:
        path: a bundle made by `vdm export`, a pointer of a registry such as `registry/cifar10/promoted`, or a run
            directory; local or gs://.
        step: of a run directory: which checkpoint; None takes the newest.

    Raises:
        CheckpointError: nothing of the kind is there, or it is damaged: the parameters of a bundle are compared with
            their checksum, those of a checkpoint with theirs.
        ConfigError: a step was asked of a bundle.
        DataError: an object store refuses.
    """
    with storage_errors(path):
        root = epath.Path(path)
        if root.exists() and not root.is_dir() and root.name in ("promoted", "latest"):
            root = root.parent / root.read_text().strip()
        if (root / "params.safetensors").exists():
            if step is not None:
                raise ConfigError(f"{path} is a bundle, which has one step: leave out step={step}")
            return _load_bundle(root)
        if (root / "checkpoints").exists():
            config = _config(root / "config.json", _read(root / "config.json"))
            restored = restore_ema(str(root), config, step)
            return LoadedModel(config, restored.step, functions.flatten_params(restored.params))
    raise CheckpointError(f"{path} is no bundle (params.safetensors) and no run (checkpoints/)")


def _load_bundle(root: epath.Path) -> LoadedModel:
    from safetensors.numpy import load as load_safetensors

    lines = (line.split("  ", 1) for line in _read(root / "SHA256SUMS").decode("utf-8", "replace").splitlines())
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    contents = {}
    for name in ("params.safetensors", "config.json", "provenance.json"):
        contents[name] = _read(root / name)
        if hashlib.sha256(contents[name]).hexdigest() != sums.get(name):
            raise CheckpointError(f"{root / name} is damaged: its SHA-256 is not the one in SHA256SUMS")
    params = {name: jnp.asarray(x) for name, x in load_safetensors(contents["params.safetensors"]).items()}
    try:
        step = int(json.loads(contents["provenance.json"])["step"])
    except (ValueError, LookupError, TypeError):
        raise CheckpointError(f"{root / 'provenance.json'} names no step: export the run again") from None
    return LoadedModel(_config(root / "config.json", contents["config.json"]), step, params)


def _read(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None


def _config(path: epath.Path, content: bytes) -> Config:
    sections = {
        "data": DataConfig,
        "model": ModelConfig,
        "optim": OptimConfig,
        "train": TrainConfig,
        "eval": EvalConfig,
    }
    try:
        values = json.loads(content)
        made = {
            # JSON has no tuples.
            name: kind(**{key: tuple(x) if isinstance(x, list) else x for key, x in values.pop(name, {}).items()})
            for name, kind in sections.items()
        }
        return Config(**values, **made)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no config of this version: {error}") from error


def _check(name: str, value: int, smallest: int) -> None:
    if not smallest <= value < 2**31:
        raise ConfigError(f"{name} must lie in {smallest}..2^31-1, got {value}")


def _seed(seed: int) -> np.uint32:
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must lie in 0..2^32-1, got {seed}")
    return np.uint32(seed)
