"""The data job as Beam transforms: one branch from the tasks to the commit.

One branch, because a runner such as Dask's computes the last node of the graph only; a task makes a whole shard,
because `WriteToTFRecord` lets the runner choose which record goes into which file.
"""

from collections.abc import Iterable

import apache_beam as beam

from beam_jobs.commit import commit
from beam_jobs.plan import Plan, Task, tasks_of
from beam_jobs.shards import WrittenShard, write_shard
from beam_jobs.summary import Summary, no_summary


class WriteShards(beam.PTransform):
    """Tasks to shards on disk."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, tasks: beam.PCollection[Task]) -> beam.PCollection[WrittenShard]:
        """Spread the tasks over the workers, which read, check and write."""
        plan = self._plan
        return tasks | "Spread" >> beam.Reshuffle() | "Write" >> beam.Map(lambda task: write_shard(plan, task))


class SummaryFn(beam.CombineFn):
    """Written shards of one split to their summary."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def create_accumulator(self) -> Summary:
        """Return the summary of no shard."""
        return no_summary(self._plan)

    def add_input(self, mutable_accumulator: Summary, element: WrittenShard) -> Summary:
        """Return the summary with one shard more."""
        return mutable_accumulator.add(element)

    def merge_accumulators(self, accumulators: Iterable[Summary]) -> Summary:
        """Return the summary of all shards."""
        return sum(accumulators, self.create_accumulator())

    def extract_output(self, accumulator: Summary) -> Summary:
        """Return the summary."""
        return accumulator


class Commit(beam.PTransform):
    """Written shards to the manifest, or to the problems that forbid it."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, shards: beam.PCollection[WrittenShard]) -> beam.PCollection[str]:
        """Summarise each split, gather the summaries in one place and commit."""
        plan = self._plan
        return (
            shards
            | "KeyBySplit" >> beam.Map(lambda shard: (shard.task.split, shard))
            | "Summarise" >> beam.CombinePerKey(SummaryFn(plan))
            | "KeyAll" >> beam.Map(lambda part: (0, part))
            | "GatherAll" >> beam.GroupByKey()
            | "WriteManifest" >> beam.MapTuple(lambda _, parts: commit(plan, parts))
        )


def build(pipeline: beam.Pipeline, plan: Plan) -> None:
    """Add the whole job to a pipeline."""
    _ = (
        pipeline
        | "Tasks" >> beam.Create(tasks_of(plan))
        | "WriteShards" >> WriteShards(plan)
        | "Commit" >> Commit(plan)
    )
