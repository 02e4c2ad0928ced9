"""The data job as Beam transforms: one branch from the chunks to the commit.

One branch, because a runner such as Dask's computes the last node of the graph only; keyed by shard, because
`WriteToTFRecord` lets the runner choose which record goes into which file.
"""

import apache_beam as beam

from beam_jobs.shards import Block, Chunk, Plan, WrittenShard, chunks_of, commit, encode_chunk, write_shard


class EncodeChunks(beam.PTransform):
    """Chunks to checked and encoded blocks, keyed by split and shard."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[tuple[tuple[str, int], Block]]:
        """Spread the chunks over the workers, which read them."""
        plan = self._plan
        return chunks | "Spread" >> beam.Reshuffle() | "Encode" >> beam.FlatMap(lambda chunk: encode_chunk(plan, chunk))


class WriteShards(beam.PTransform):
    """Blocks, in any order, to shards on disk."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, blocks: beam.PCollection[tuple[tuple[str, int], Block]]) -> beam.PCollection[WrittenShard]:
        """Gather each shard's blocks and write them."""
        plan = self._plan
        return (
            blocks
            | "GatherShard" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda key, group: write_shard(plan, key, group))
        )


class Commit(beam.PTransform):
    """Written shards to the manifest, or to the problems that forbid it."""

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, shards: beam.PCollection[WrittenShard]) -> beam.PCollection[str]:
        """Gather all shards in one place and commit."""
        plan = self._plan
        return (
            shards
            | "KeyAll" >> beam.Map(lambda shard: (0, shard))
            | "GatherAll" >> beam.GroupByKey()
            | "WriteManifest" >> beam.MapTuple(lambda _, group: commit(plan, group))
        )


def build(pipeline: beam.Pipeline, plan: Plan) -> None:
    """Add the whole job to a pipeline."""
    _ = (
        pipeline
        | "Chunks" >> beam.Create(chunks_of(plan))
        | "EncodeChunks" >> EncodeChunks(plan)
        | "WriteShards" >> WriteShards(plan)
        | "Commit" >> Commit(plan)
    )
