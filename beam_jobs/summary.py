"""What is known of a split when all its shards are written; summaries of parts add up in any order."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from beam_jobs.plan import Plan
from beam_jobs.shards import WrittenShard
from beam_jobs.statistics import Statistics, no_statistics


@dataclass(frozen=True)
class Summary:
    """Some shards of one split by their number, and the statistics of their images."""

    statistics: Statistics
    shards: dict[int, WrittenShard] = field(default_factory=dict)

    def add(self, shard: WrittenShard) -> "Summary":
        """Return the summary with one shard more; a shard that a runner wrote twice counts once."""
        if shard.task.shard in self.shards:
            return self
        return Summary(self.statistics + shard.statistics, self.shards | {shard.task.shard: shard})

    def __add__(self, other: "Summary") -> "Summary":
        """Return the summary of both sets of shards."""
        result = self
        for shard in other.shards.values():
            result = result.add(shard)
        return result

    def in_order(self) -> list[WrittenShard]:
        """Return the shards in the order of their number."""
        return [self.shards[number] for number in sorted(self.shards)]


def no_summary(plan: Plan) -> Summary:
    """Return the summary of no shard."""
    source = plan.source
    return Summary(no_statistics(source.image_shape[-1], source.num_levels, source.num_classes))


@dataclass(frozen=True)
class Duplicates:
    """Images with the same pixels.

    Attributes:
        within: for each split, its images whose pixels came before in the same split.
        between: test images whose pixels are in train.
        first: the first pair in words, None without duplicates.
    """

    within: dict[str, int]
    between: int
    first: str | None


def _rows(shards: Iterable[WrittenShard]) -> np.ndarray:
    # Four words an image; as opaque bytes they could be compared, but not sorted.
    return np.frombuffer(b"".join(shard.pixel_digests for shard in shards), "<u8").reshape(-1, 4)


def _pairs(rows: np.ndarray) -> np.ndarray:
    """Return (earlier, later) positions of equal rows, each later one once: int64 [pairs, 2]."""
    order = np.lexsort((np.arange(len(rows)), *rows.T))
    equal = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    pairs = np.stack([order[:-1][equal], order[1:][equal]], axis=1)
    return pairs[np.argsort(pairs[:, 1], kind="stable")]


def find_duplicates(summaries: dict[str, Summary]) -> Duplicates:
    """Count the images that occur twice, by the SHA-256 of their pixels."""
    within, first = {}, None
    rows = {split: _rows(summary.in_order()) for split, summary in summaries.items()}
    indices = {
        split: [index for shard in summary.in_order() for index in shard.indices]
        for split, summary in summaries.items()
    }
    for split in summaries:
        pairs = _pairs(rows[split])
        within[split] = len(pairs)
        if len(pairs) and first is None:
            left, right = (indices[split][position] for position in pairs[0])
            first = f"{split} image {right} has the pixels of {split} image {left}"
    between = 0
    if {"train", "test"} <= rows.keys():
        train = {row.tobytes(): position for position, row in reversed(list(enumerate(rows["train"])))}
        common = [
            (position, train[row.tobytes()]) for position, row in enumerate(rows["test"]) if row.tobytes() in train
        ]
        between = len(common)
        if common and first is None:
            test_at, train_at = indices["test"][common[0][0]], indices["train"][common[0][1]]
            first = f"test image {test_at} has the pixels of train image {train_at}"
    return Duplicates(within, between, first)
