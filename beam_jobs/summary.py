"""What is known of a split when all its shards are written; summaries of parts add up in any order."""

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


def _digests(summary: Summary) -> np.ndarray:
    # NumPy drops zero bytes at the end of an S32, but two digests of 32 bytes are still equal only if they are.
    return np.frombuffer(b"".join(shard.pixel_digests for shard in summary.in_order()), "S32")


def _indices(summary: Summary) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(shard.indices for shard in summary.in_order())])


def find_duplicates(summaries: dict[str, Summary]) -> Duplicates:
    """Count the images that occur twice, by the SHA-256 of their pixels."""
    within, between, first = {}, 0, None
    digests = {split: _digests(summary) for split, summary in summaries.items()}
    indices = {split: _indices(summary) for split, summary in summaries.items()}
    order = {split: np.argsort(values, kind="stable") for split, values in digests.items()}
    for split, values in digests.items():
        sorted_values = values[order[split]]
        later = order[split][1:][sorted_values[1:] == sorted_values[:-1]]
        within[split] = len(later)
        if len(later) and first is None:
            at = order[split][np.searchsorted(sorted_values, values[later.min()])]
            first = f"{split} image {indices[split][later.min()]} has the pixels of {split} image {indices[split][at]}"
    if {"train", "test"} <= digests.keys() and len(digests["train"]):
        train, test = digests["train"][order["train"]], digests["test"]
        places = np.searchsorted(train, test)
        common = np.flatnonzero(train[np.minimum(places, len(train) - 1)] == test)
        between = len(common)
        if between and first is None:
            train_at = order["train"][places[common[0]]]
            first = (
                f"test image {indices['test'][common[0]]} has the pixels of train image {indices['train'][train_at]}"
            )
    return Duplicates(within, between, first)
