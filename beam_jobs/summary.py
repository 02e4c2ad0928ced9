"""What is known of a split when all its shards are written; summaries of parts add up in any order."""

from dataclasses import dataclass, field

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
