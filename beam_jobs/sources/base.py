"""What a source of images is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from vdm_lib.files.records import Record


@dataclass(frozen=True)
class Unreadable:
    """An image that a source cannot give, and why; it stands in the place of its record."""

    index: int
    reason: str


class Source(Protocol):
    """Images with labels, in splits, in a fixed order.

    A new source is one frozen dataclass with these attributes and a `read`. It must pickle, because Beam sends it to
    its workers, and give the same records for the same range every time, on every machine.

    Attributes:
        name: name of the data set, as the configs call it.
        image_shape: height, width, channels.
        num_levels: values that one channel of one pixel can take.
        num_classes: labels are 0 to num_classes - 1.
        class_names: one name for each label.
        description: where the images came from, for the manifest; no path of this machine.
        data_version: which release of the data set.
        splits: number of images of each split.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int
    class_names: tuple[str, ...]
    description: str
    data_version: str
    splits: dict[str, int]

    def read(self, split: str, start: int, stop: int) -> Iterator[Record | Unreadable]:
        """Yield the records of the split with index start to stop - 1, in this order."""
        ...
