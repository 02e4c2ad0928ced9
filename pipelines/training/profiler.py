"""`--profile STEPS`: a trace of some training steps for TensorBoard (xprof) and Perfetto."""

import shutil
import tempfile
from pathlib import Path

import jax
from etils import epath

from vdm_lib.files.records import write_atomically

_WARM_UP_STEPS = 2


class Profiler:
    """Traces `num_steps` steps after the first two of a call; each process its own. Use as a context manager."""

    def __init__(self, workdir: epath.PathLike, num_steps: int, first: int) -> None:
        """Trace nothing if num_steps is 0; `first` is the step that the call begins after."""
        self._place = epath.Path(workdir) / "profile"
        self._start, self._stop = first + _WARM_UP_STEPS, first + _WARM_UP_STEPS + num_steps
        self._directory: Path | None = None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def before(self, step: int) -> None:
        """Begin the trace if it is time; `step` counts from 0."""
        if step == self._start < self._stop:
            self._directory = Path(tempfile.mkdtemp(prefix="vdm-profile-"))
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)

    def after(self, step: int, metrics: object) -> None:
        """End the trace if it is time, once the step is done."""
        if self._directory is not None and step + 1 == self._stop:
            jax.block_until_ready(metrics)
            self._end()

    def _end(self) -> None:
        if self._directory is None:
            return
        jax.profiler.stop_trace()
        for file in self._directory.rglob("*"):
            if file.is_file():
                target = self._place / file.relative_to(self._directory).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, file.read_bytes())
        shutil.rmtree(self._directory)
        self._directory = None
