"""The job `vdm verify`: whether a bundle is what was exported and computes what the model computed."""

import json
from pathlib import Path
from typing import Any

from pipelines.bundle.fresh import run_checks
from pipelines.bundle.place import fetched
from pipelines.results import VerifyResult
from pipelines.run_dir import check_same_data
from vdm_lib.data import load_split
from vdm_lib.errors import DataError
from vdm_lib.files.records import read_manifest


def run(bundle: str, data: str | None = None, *, allow_other_data: bool = False) -> VerifyResult:
    """Check a bundle in fresh processes that do not import this project, and measure its bpd if there is data.

    Args:
        bundle: the directory of the bundle, local or gs://.
        data: data directory, every byte of which is checked, to compare with what the model was trained and
            measured on, and to measure bpd on again; None does neither.
        allow_other_data: other data is told, not refused.

    Raises:
        VdmError: the bundle is not verified, or its bpd is not what it says; one line that names the file.
        CheckpointError: other data than the bundle's.
        DataError: the data directory is damaged, or has no split that the bundle knows.
    """
    with fetched(bundle) as directory:
        checked = run_checks(directory)
        same_data = report = claimed = None
        if data is not None:
            metrics = json.loads((directory / "metrics.json").read_text())
            same_data = _is_same_data(directory, metrics, data, allow_other_data)
            report, claimed = _measure(directory, metrics, data, same_data)
    return VerifyResult(
        bundle=bundle,
        num_files=checked.files,
        max_difference=checked.max_difference,
        not_checked=checked.not_checked,
        same_data=same_data,
        report=report,
        claimed=claimed,
    )


def _measure(bundle: Path, metrics: dict[str, Any], data: str, same_data: bool) -> tuple[Any, Any]:
    """Return what is measured, and what the bundle states if it states anything about these images."""
    # Loads jax, which the checks do not need.
    from pipelines.bundle.measure import check_claim, measure_again

    report = measure_again(bundle, load_split(data, metrics.get("split", "test")))
    claimed = (metrics["bpd"], metrics["bpd_stderr"]) if metrics["bpd"] is not None and same_data else None
    if claimed is not None:
        check_claim(report, claimed)
    return report, claimed


def _is_same_data(bundle: Path, metrics: dict[str, Any], data: str, allow_other_data: bool) -> bool:
    known = json.loads((bundle / "provenance.json").read_text())["data_fingerprints"]
    if "data_fingerprint" in metrics:
        known = {metrics["split"]: metrics["data_fingerprint"]} | known
    at_hand = {name: load_split(data, name).fingerprint for name in read_manifest(data).splits if name in known}
    if not at_hand:
        raise DataError(f"{bundle} does not say on which data it was trained: verify it without --data")
    return check_same_data(known, at_hand, allow_other=allow_other_data)
