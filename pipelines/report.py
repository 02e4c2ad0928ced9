"""The job `vdm report`: one self-contained HTML file of a run, or of several beside each other."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from pipelines.results import ReportResult
from pipelines.run_report.page import page_of_run, page_of_runs
from pipelines.run_report.record import read_run
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.records import read_manifest, write_atomically
from vdm_lib.files.storage import storage_errors


def run(workdir: str, *, out: str | None = None, data: str | None = None) -> ReportResult:
    """Write the report of a run.

    Args:
        workdir: run directory, local or gs://.
        out: HTML file to write; None takes report.html in the run directory.
        data: data directory, whose statistics are shown too.

    Raises:
        CheckpointError: no run, or a file of it that cannot be read.
        DataError: no data directory.
    """
    with storage_errors(workdir):
        record = read_run(workdir)
    return _write(out or f"{workdir.rstrip('/')}/report.html", page_of_run(record, _statistics(data)), [workdir])


def compare(workdirs: Sequence[str], *, out: str | None = None) -> ReportResult:
    """Write the report that shows runs beside each other.

    Args:
        workdirs: run directories, two or more; differences are against the first.
        out: HTML file to write; None takes compare.html in the working directory.

    Raises:
        ConfigError: fewer than two runs.
        CheckpointError: no run, or a file of one that cannot be read.
    """
    if len(workdirs) < 2:
        raise ConfigError("--compare needs at least two runs")
    return _write(out or "compare.html", page_of_runs([read_run(workdir) for workdir in workdirs]), workdirs)


def _write(out: str, page: str, workdirs: Sequence[str]) -> ReportResult:
    content = page.encode()
    path = epath.Path(out)
    with storage_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return ReportResult(page=out, num_bytes=len(content), workdirs=tuple(workdirs))


def _statistics(data: str | None) -> dict[str, Any] | None:
    if data is None:
        return None
    read_manifest(data)
    path = epath.Path(data) / "stats.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: prepare the data with this version, or leave out --data") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): prepare the data again, or leave out --data") from None
