"""A source that notes which process read what, so that a test sees who did the work; run, it submits a job of it.

usage: python -m tests.beam_jobs.noted NOTES OUT [--pool ADDRESS | FLAG ...]
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState

from beam_jobs.plan import make_plan
from beam_jobs.prepare import prepare
from beam_jobs.sources.digits import Digits
from vdm_lib.files.records import Record


@dataclass(frozen=True)
class NotedDigits(Digits):
    """The digits; each process that reads some leaves a file named by its process id in the folder `notes`."""

    notes: str = ""

    def read(self, split: str, start: int, stop: int) -> Iterator[Record]:
        with Path(self.notes, str(os.getpid())).open("a") as stream:
            stream.write(f"{split} {start}\n")
        yield from super().read(split, start, stop)


class IdleRunner(PipelineRunner):
    """Says that it is done and does nothing, as Dask's runner does with all but the last node of a graph."""

    def run_pipeline(self, pipeline: Any, options: Any) -> PipelineResult:
        """Return that all is done."""
        return DoneResult(PipelineState.DONE)


class DoneResult(PipelineResult):
    """The result of a job that nobody did."""

    def wait_until_finish(self, duration: Any = None) -> str:
        """Return at once."""
        return self.state


def run_on_two_workers_of_a_pool(source: NotedDigits, out: str, address: str) -> None:
    """Run the job on FnApiRunner with two workers that the pool starts: no flag of Beam's asks for that."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import ExternalEnvironment

    from beam_jobs.transforms import build

    Path(out).mkdir()
    options = PipelineOptions(["--direct_num_workers=2"])
    with beam.Pipeline(FnApiRunner(ExternalEnvironment(address)), options) as pipeline:
        build(pipeline, make_plan(source, out))
    for path in Path(out).glob("*.tmp-digests"):  # as `prepare` does after the commit
        path.unlink()


def main(notes: str, out: str, *flags: str) -> None:
    """Prepare the digits on a runner that the flags name."""
    source = NotedDigits(notes=notes)
    if flags[0] == "--pool":
        run_on_two_workers_of_a_pool(source, out, flags[1])
    else:
        prepare(source, out, pipeline_options=flags)


if __name__ == "__main__":
    # Under its own name: what is defined in __main__ would be pickled by value.
    from tests.beam_jobs.noted import main as submit

    submit(*sys.argv[1:])
