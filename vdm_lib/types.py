"""Names of the array types that every module shares, so that a shape is written once.

b is the batch, h, w, c are height, width and channels. `Params` is the plain nested dict that flax makes.
"""

from typing import Any

from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt8
from jaxtyping import Key as KeyArray

Params = dict[str, Any]
Key = PRNGKeyArray
KeyPerImage = KeyArray[Array, " b"]

Images = UInt8[Array, "b h w c"]
Levels = Integer[Array, "b h w c"]
Latents = Float[Array, "b h w c"]
PerImage = Float[Array, " b"]
Scalar = Float[Array, ""]
Metrics = dict[str, Scalar]
Conditioning = Integer[Array, " b"] | Float[Array, " b"]
Labels = Integer[Array, " b"]
