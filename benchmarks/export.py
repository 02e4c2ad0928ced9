"""The export of the real cifar10 model with its time, memory and size, and the report of a long run."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

import configs
import pipelines.report
from benchmarks.figures import REPEATS, Figure, of_repetitions, seconds, single
from pipelines import compilation_cache, run_dir
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.sharding import make_mesh
from vdm_lib.train import init_state

_NUM_ROWS = 100_000
_PAGE_BYTES = 4096


def figures() -> Iterator[Figure]:
    """Yield the figures of the export, then that of the report."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _write_random_checkpoint(root / "run")
        yield from _export(root)
        if importlib.util.find_spec("jax2onnx"):
            yield from _export(root, "--onnx")
        yield _report(root)


@dataclass(frozen=True)
class _Exported:
    seconds: float
    peak_bytes: int
    num_bytes: int


def _export(root: Path, *options: str) -> Iterator[Figure]:
    runs = [_export_once(root, *options) for _ in range(REPEATS)]
    what = " ".join(["vdm export cifar10, 32 layers, checked", *options])
    yield of_repetitions(what, [each.seconds for each in runs], "s", bar="at most 180 s on 2 cores")
    peaks = [each.peak_bytes / 2**30 for each in runs]
    yield of_repetitions(f"{what}: memory, all processes", peaks, "GiB", bar="at most 6 GiB")
    yield single(f"{what}: the bundle", runs[0].num_bytes / 1e6, "MB")


def _export_once(root: Path, *options: str) -> _Exported:
    bundle = root / "bundle"
    words = ["export", "--workdir", str(root / "run"), "--out", str(bundle), *options]
    command = [sys.executable, "-m", "pipelines.command", *words]
    with tempfile.TemporaryDirectory() as cache:  # each time without the programs that were compiled before
        environment = os.environ | {compilation_cache.DIRECTORY: cache}
        started = time.perf_counter()
        with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=environment) as process:
            peak = _PeakMemory(process.pid)
            output, _ = process.communicate()
        elapsed, peak_bytes = time.perf_counter() - started, peak.stop()
    if process.returncode:
        raise RuntimeError(f"vdm export ended with exit code {process.returncode}")
    shutil.rmtree(bundle)
    return _Exported(elapsed, peak_bytes, json.loads(output.splitlines()[-1])["num_bytes"])


def _write_random_checkpoint(run: Path) -> None:
    config = configs.load("cifar10")
    run_dir.open_run(str(run), config)
    state = init_state(config, make_mesh())
    # A fresh network's last layers are zero: nothing behind them would be compared.
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.01 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    (run / "checkpoints").mkdir()
    with Checkpoints(str(run)) as checkpoints:
        metadata = {"config": configs.to_json(config), "data_fingerprints": {}}
        checkpoints.save(state.replace(ema_params=jax.tree.unflatten(tree, noisy)), metadata)


class _PeakMemory:
    """The largest resident memory that a process and those it started had together, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._done = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """Return it in bytes."""
        self._done.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            parents = dict(_parents())
            family = {self._pid}
            while more := {pid for pid, parent in parents.items() if parent in family} - family:
                family |= more
            self._peak = max(self._peak, sum(map(_resident_bytes, family)))


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.parent.name), int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _report(root: Path) -> Figure:
    run = root / "long"
    run_dir.open_run(str(run), configs.load("debug"))
    columns = ("bpd", "bpd_recon", "bpd_latent", "bpd_diff", "gamma_0", "gamma_1", "gradient_norm", "update_norm")
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, _NUM_ROWS + 1):
            file.write(json.dumps({"step": step} | dict.fromkeys(columns, 1.0 + 1.0 / step)) + "\n")
    name = f"vdm report of {_NUM_ROWS:,} rows"
    return of_repetitions(name, seconds(lambda: pipelines.report.run(str(run)).num_bytes), "s", "at most 10 s")
