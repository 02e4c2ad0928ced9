"""The job `vdm verify`: whether a bundle is what was exported and computes what the model computed."""

import json
from pathlib import Path

from pipelines.results import VerifyResult
from pipelines.run_dir import check_same_data
from vdm_lib.data import load_split
from vdm_lib.errors import DataError
from vdm_lib.export import run_check
from vdm_lib.records import read_manifest


def run(bundle: str, data: str | None = None, *, allow_other_data: bool = False) -> VerifyResult:
    """Check a bundle in a fresh process that does not import this project.

    Args:
        bundle: the directory of the bundle.
        data: data directory, every byte of which is checked, to compare with what the model was trained and
            measured on; None compares nothing.
        allow_other_data: other data is told, not refused.

    Raises:
        VdmError: the bundle is not verified; one line that names the file.
        CheckpointError: other data than the bundle's.
        DataError: the data directory is damaged, or has no split that the bundle knows.
    """
    result = run_check(Path(bundle))
    same_data = None if data is None else _is_same_data(Path(bundle), data, allow_other_data)
    return VerifyResult(
        bundle=bundle, num_files=result["files"], max_difference=result["max_difference"], same_data=same_data
    )


def _is_same_data(bundle: Path, data: str, allow_other_data: bool) -> bool:
    known = json.loads((bundle / "provenance.json").read_text())["data_fingerprints"]
    measured = json.loads((bundle / "metrics.json").read_text())
    if "data_fingerprint" in measured:
        known = {measured["split"]: measured["data_fingerprint"]} | known
    at_hand = {name: load_split(data, name).fingerprint for name in read_manifest(data).splits if name in known}
    if not at_hand:
        raise DataError(f"{bundle} does not say on which data it was trained: verify it without --data")
    return check_same_data(known, at_hand, allow_other=allow_other_data)
