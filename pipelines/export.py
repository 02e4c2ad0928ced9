"""The job `vdm export`: a checkpoint to a bundle of files that work without this project."""

import sys
from dataclasses import asdict
from pathlib import Path

import configs
from pipelines.place import check_new_directory
from pipelines.results import ExportResult
from pipelines.run_dir import provenance, read_config, read_eval_report
from vdm_lib.export import write_bundle
from vdm_lib.model import VDM, count_params
from vdm_lib.restore import restore_ema


def run(workdir: str, out: str, *, step: int | None = None) -> ExportResult:
    """Export the averaged parameters of one checkpoint; the bundle is checked before it is published.

    Args:
        workdir: run directory, local or gs://.
        out: local directory to make.
        step: step of the checkpoint; None takes the last.

    Raises:
        CheckpointError: no such checkpoint, or a damaged one.
        ConfigError: `out` is there already, is not local or cannot be written.
        VdmError: the bundle cannot be written or is not verified; nothing is left behind.
    """
    check_new_directory(out)
    config = read_config(workdir)
    restored = restore_ema(workdir, config, step)
    report = read_eval_report(workdir, restored.step)
    measured = None if report is None else asdict(report)
    if report is None:
        print(
            f"vdm export: the bundle will have no bpd, step {restored.step} was not measured: first run "
            f"`vdm eval --workdir {workdir} --data DATA --step {restored.step}`",
            file=sys.stderr,
            flush=True,
        )
    origin = {**provenance(), "step": restored.step, "data_fingerprints": restored.metadata["data_fingerprints"]}
    differences = write_bundle(
        out,
        config_json=configs.to_json(config),
        model=VDM.from_config(config),
        params=restored.params,
        eval_report=measured,
        provenance=origin,
    )
    return ExportResult(
        bundle=out,
        step=restored.step,
        num_params=count_params(restored.params),
        num_bytes=sum(path.stat().st_size for path in Path(out).iterdir()),
        max_difference=differences,
        bpd=None if report is None else report.bpd,
        bpd_stderr=None if report is None else report.bpd_stderr,
    )
