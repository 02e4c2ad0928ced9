"""The files of an evaluation: passes of one under way, and the per-image terms of one that is done."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from vdm_lib.errors import CheckpointError
from vdm_lib.evaluation.passes import Arrays
from vdm_lib.files.checksums import params_digest
from vdm_lib.files.records import write_atomically
from vdm_lib.report import BpdReport
from vdm_lib.types import Params

_IDENTITY = "identity"


def identity(facts: Mapping[str, Any]) -> str:
    """Return a digest of everything that a pass depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def eval_path(workdir: str, step: int, kind: str, suffix: str) -> epath.Path:
    """Return eval/STEP KIND SUFFIX of a run directory."""
    return epath.Path(workdir) / "eval" / f"{step}{kind}{suffix}"


def check_measured(report: BpdReport, params: Params, path: epath.Path) -> None:
    """Accept a report, read from `path`, of these parameters.

    Raises:
      CheckpointError: it was measured on others, of an earlier run in the same directory for one.
    """
    if params_digest(params) != report.checkpoint_digest:
        raise CheckpointError(
            f"{path} is a report of another checkpoint, the parameters differ: measure again with `vdm eval --force`"
        )


@dataclass(frozen=True)
class PassFiles:
    """The passes of an evaluation under way, one .npz file each, in a directory that is removed when it is done.

    A file that was written for another checkpoint, seed or data, or that is damaged, counts as absent.
    """

    directory: epath.Path
    identity: str

    def read(self, name: str) -> Arrays | None:
        """Return the arrays of a file, None if it is absent or not of this evaluation."""
        try:
            with np.load(io.BytesIO((self.directory / f"{name}.npz").read_bytes())) as file:
                arrays = dict(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return arrays if str(arrays.pop(_IDENTITY, "")) == self.identity else None

    def write(self, name: str, arrays: Arrays) -> None:
        """Write a file atomically; of several processes the first one writes."""
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, **{_IDENTITY: np.asarray(self.identity)}, **arrays)
            write_atomically(self.directory / f"{name}.npz", content.getvalue())

    def remove(self) -> None:
        """Remove the directory: the report is there."""
        if jax.process_index() == 0 and self.directory.exists():
            self.directory.rmtree()


def write_parquet(path: epath.Path, columns: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write columns of equal length as one Parquet file, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)).replace_schema_metadata(dict(metadata)), content, compression="zstd")
    write_atomically(path, content.getvalue())
