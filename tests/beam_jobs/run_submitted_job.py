"""Do what Dataflow's workers would: run a staged pipeline with the staged package and nothing else of this project.

Of what is installed here, only what Beam and the package ask for can be imported, as on a worker.

usage: run_submitted_job.py PIPELINE_PB PACKAGE_DIR REPOSITORY
"""

import importlib.metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

package, repository = Path(sys.argv[2]), Path(sys.argv[3]).resolve()


def installed_by(words: list[str]) -> set[str]:
    """Return the names of the distributions that pip would install for these requirements."""
    waiting, found = [Requirement(word) for word in words], set()
    while waiting:
        requirement = waiting.pop()
        for extra in requirement.extras or {""}:
            name = canonicalize_name(requirement.name)
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for need in map(Requirement, needs):
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    waiting.append(need)
    return {name for name, _ in found}


class OnlyInstalled:
    """Finds nothing, but refuses modules of distributions that a worker does not have."""

    def __init__(self, present: set[str]):
        self.present = present
        self.owners = importlib.metadata.packages_distributions()

    def find_spec(self, name, path=None, target=None):
        owners = self.owners.get(name, ())
        if owners and not self.present & {canonicalize_name(owner) for owner in owners}:
            raise ModuleNotFoundError(f"a worker has no {name}", name=name)


(metadata,) = package.glob("*.dist-info")
asked = importlib.metadata.Distribution.at(metadata).requires
sys.meta_path.insert(0, OnlyInstalled(installed_by(["apache-beam[gcp]", "setuptools", *asked]) | {"vdm-pipeline"}))
sys.path[:] = [str(package), *(entry for entry in sys.path if Path(entry).resolve() != repository)]

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

assert beam_jobs.__file__.startswith(str(package)), beam_jobs.__file__
