"""What the jobs return: plain values that a flow can read without loading jax, Beam or TensorFlow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PrepareResult:
    """What `vdm prepare` made.

    Attributes:
        data_dir: the data directory.
        name: name of the data set.
        splits: images of each split.
        num_shards: files of all splits together.
        fingerprints: hex SHA-256 over the ordered images and labels of each split.
        seconds: wall time of the job.
        images_per_s: images of all splits per second.
    """

    data_dir: str
    name: str
    splits: dict[str, int]
    num_shards: int
    fingerprints: dict[str, str]
    seconds: float
    images_per_s: float
