"""The job `vdm verify`: whether a bundle is what was exported and computes what the model computed."""

from pathlib import Path

from pipelines.results import VerifyResult
from vdm_lib.export import run_check


def run(bundle: str) -> VerifyResult:
    """Check a bundle in a fresh process that does not import this project.

    Raises:
        VdmError: the bundle is not verified; one line that names the file.
    """
    result = run_check(Path(bundle))
    return VerifyResult(bundle=bundle, num_files=result["files"], max_difference=result["max_difference"])
