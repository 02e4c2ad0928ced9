"""Do what Dataflow's workers would: run a staged pipeline with the staged package and nothing else of this project.

usage: run_submitted_job.py PIPELINE_PB PACKAGE_DIR REPOSITORY
"""

import sys
from pathlib import Path

repository = Path(sys.argv[3]).resolve()
sys.path[:] = [sys.argv[2], *(entry for entry in sys.path if Path(entry).resolve() != repository)]

from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.portability import python_urns  # noqa: E402
from apache_beam.portability.api import beam_runner_api_pb2  # noqa: E402
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner  # noqa: E402

pipeline = beam_runner_api_pb2.Pipeline.FromString(Path(sys.argv[1]).read_bytes())
for environment in pipeline.components.environments.values():
    environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    del environment.dependencies[:]
FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
import beam_jobs  # noqa: E402

assert beam_jobs.__file__.startswith(sys.argv[2]), beam_jobs.__file__
