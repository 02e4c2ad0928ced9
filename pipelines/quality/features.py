"""Features of images by a network that the user gives, as a program that `jax.export` has serialised."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from vdm_lib.errors import ConfigError

_BATCH = 64


@dataclass(frozen=True)
class FeatureNetwork:
    """A function of float32 images [b, h, w, 3] in 0..255 that returns features [b, d]."""

    call: Callable[[np.ndarray], jax.Array]
    sha256: str
    size: tuple[int, int] | None
    """Height and width that images are resized to; None takes any."""

    def __call__(self, images: UInt8[np.ndarray, "n h w c"], num_levels: int) -> Float[np.ndarray, "n d"]:
        """Return features in float64.

        Levels are stretched to 0..255 and grey is repeated; resizing is bicubic with antialiasing in float32,
        without rounding, as clean-fid does it (Parmar et al., arXiv 2104.11222).

        Raises:
          ConfigError: the program does not take such images, or returns no finite features.
        """
        parts = []
        for start in range(0, len(images), _BATCH):
            some = images[start : start + _BATCH]
            given = np.stack([_prepared(image, num_levels, self.size) for image in some])
            # A last batch that is smaller is filled up, for programs of a fixed batch.
            filled = np.concatenate([given, np.zeros((_BATCH - len(given), *given.shape[1:]), np.float32)])
            try:
                features = np.asarray(self.call(filled), np.float64)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"--features: the program does not take images {filled.shape}: {error}") from None
            if features.ndim != 2 or len(features) != _BATCH or not np.isfinite(features).all():
                raise ConfigError(
                    f"--features: the program must return finite features [{_BATCH}, d], got {features.shape}"
                )
            parts.append(features[: len(given)])
        return np.concatenate(parts)


def read_features(path: str) -> FeatureNetwork:
    """Return the network in a file.

    Raises:
      ConfigError: no such file, no program, or one that takes other than one batch of colour images.
    """
    try:
        content = epath.Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"--features: {path} does not exist") from None
    try:
        program = jax.export.deserialize(bytearray(content))
        (taken,) = program.in_avals
    except Exception as error:
        # What is no such file fails in many ways.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"--features: {path} is no program of one argument by jax.export ({reason}); docs/sampling.md shows one"
        ) from None
    if len(taken.shape) != 4 or taken.shape[-1] != 3:
        raise ConfigError(f"--features: {path} takes {taken.shape}, it must take images [b, h, w, 3]")
    height, width = taken.shape[1:3]
    fixed = isinstance(height, int) and isinstance(width, int)
    if isinstance(taken.shape[0], int) and taken.shape[0] != _BATCH:
        raise ConfigError(f"--features: {path} takes batches of {taken.shape[0]}: export it for {_BATCH} or any number")
    return FeatureNetwork(program.call, hashlib.sha256(content).hexdigest(), (height, width) if fixed else None)


def _prepared(
    image: UInt8[np.ndarray, "h w c"], num_levels: int, size: tuple[int, int] | None
) -> Float[np.ndarray, "H W 3"]:
    values = image.astype(np.float32) * np.float32(255.0 / (num_levels - 1))
    values = np.broadcast_to(values, (*values.shape[:2], 3)) if values.shape[2] == 1 else values
    if size is None or values.shape[:2] == size:
        return np.ascontiguousarray(values)
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(values[..., k])).resize(size[::-1], Image.Resampling.BICUBIC))
        for k in range(3)
    ]
    return np.stack(channels, axis=-1)
