"""The run directory: which file of a training run lies where, and its provenance. Imports no jax.

config.json provenance.json metrics.jsonl checkpoints/ eval/ samples/ tensorboard/ export/
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from etils import epath

import configs
from vdm_lib.config import Config
from vdm_lib.errors import CheckpointError, ConfigError
from vdm_lib.files.records import read_manifest, write_atomically
from vdm_lib.report import BpdReport

# What changes no update beyond rounding: how long, how often to write, how the work is divided over the machine.
_MAY_CHANGE = (
    "train.steps", "train.log_every", "train.checkpoint_", "train.keep_", "train.sample_", "train.on_nan",
    "train.max_skipped_steps", "train.microbatches", "train.shard", "train.data_place", "model.remat",
    "model.scan_layers", "eval.",
)  # fmt: skip
_PACKAGES = ("vdm-pipeline", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def code_digest() -> str:
    """Return a SHA-256 over the source of the rooms that training runs, changed files included."""
    here = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for room in ("configs", "pipelines", "vdm_lib") for path in (here / room).rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def provenance() -> dict[str, Any]:
    """Return what made a run: code version, Python and packages; no names of machines or people."""
    here = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "git_commit": git.stdout.strip() or None,
        "code_sha256": code_digest(),
        "python": platform.python_version(),
        "system": platform.system(),
        "packages": packages,
    }


def code_version() -> str:
    """Return the version of this package and, where it runs from a clone, the commit: `0.1.0+998d0ac1b2c3`."""
    made_by = provenance()
    version = made_by["packages"]["vdm-pipeline"] or "unknown"
    return f"{version}+{made_by['git_commit'][:12]}" if made_by["git_commit"] else version


def eval_values(config: Config, *, without: tuple[str, ...]) -> dict[str, Any]:
    """Return everything of a config that a pass of an evaluation depends on, as JSON values.

    Args:
      config: the experiment.
      without: names of eval.* that do not matter.
    """
    values = json.loads(configs.to_json(config))
    how = {key: value for key, value in values["eval"].items() if key not in without}
    return {"data": values["data"], "model": values["model"], "eval": how}


def check_config(workdir: str, config: Config) -> None:
    """Accept a directory that holds no run, or a run of the same config; nothing is written.

    What does not change the parameters of a step may differ: how long it trains, how often it writes, how it is
    evaluated. With a learning rate that falls towards the last step, the number of steps may not.

    Raises:
      ConfigError: it belongs to another config; the message names the first key that differs.
      CheckpointError: its config.json cannot be read.
    """
    if not (epath.Path(workdir) / "config.json").exists():
        return
    old = read_config(workdir)
    for key, held, value in _changes(old, config):
        free = key.startswith(_MAY_CHANGE) and not (key == "train.steps" and config.optim.lr_decay)
        if not free:
            raise ConfigError(
                f"{workdir} holds a run with {key}={held!r}, asked for is {value!r}: "
                "choose another --workdir or the config of that run"
            )


def check_model(trained: Mapping[str, Any] | None, config: Config, workdir: str) -> None:
    """Accept a checkpoint of the same model; config.json can be changed by hand, and then belongs to none of them.

    Args:
      trained: metadata of the checkpoint that training goes on from; None at the start.
      config: the experiment.
      workdir: for the message.

    Raises:
      CheckpointError: of another model; the message names the first key that differs.
    """
    try:
        old = configs.from_json((trained or {})["config"], "metadata")
    except (LookupError, ConfigError):
        # None, or of another version: its arrays tell whether they fit.
        return
    for key, held, value in _changes(old, config):
        if key.startswith("model.") and not key.startswith(_MAY_CHANGE):
            raise CheckpointError(
                f"the newest checkpoint of {workdir} was trained with {key}={held!r}, config.json has {value!r}: "
                "take the config that it was trained with"
            )


def differences(old: Config, new: Config) -> dict[str, Any]:
    """Return dotted key -> new value of what differs between two configs."""
    return {key: value for key, _, value in _changes(old, new)}


def _changes(old: Config, new: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted key, old value and new value of what differs between two configs."""
    before, after = (_flatten(json.loads(configs.to_json(each))) for each in (old, new))
    for key, value in after.items():
        if before.get(key) != value:
            yield key, before.get(key), value


def open_run(workdir: str, config: Config, made_by: Mapping[str, Any] | None = None) -> epath.Path:
    """Make the run directory, or take over the one that `check_config` accepted, and write what the run is.

    Args:
      workdir: run directory.
      config: the experiment.
      made_by: content of provenance.json; None takes `provenance`.

    Raises:
      ConfigError: it belongs to another config.
      CheckpointError: its config.json cannot be read.
    """
    check_config(workdir, config)
    directory = epath.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "config.json", configs.to_json(config).encode())
    made_by = provenance() if made_by is None else made_by
    write_atomically(directory / "provenance.json", (json.dumps(made_by, indent=2) + "\n").encode())
    return directory


def read_config(workdir: str) -> Config:
    """Return the config of a run.

    Raises:
      CheckpointError: the directory holds no run, or its config.json is damaged.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise CheckpointError(f"{workdir} holds no run (no config.json): train one with `vdm train`")
    try:
        return configs.from_json(path.read_text(), str(path))
    except (ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not the config of a run: {error}") from error


def best_step(workdir: str) -> int | None:
    """Return the step with the lowest bpd among the reports of the run's own way of measuring, None if there is none.

    A report that cannot be read is passed over: what it stood for is only one checkpoint more to keep.
    """
    found: list[tuple[float, int]] = []
    for path in (epath.Path(workdir) / "eval").glob("*.json"):
        if path.stem.isdecimal():
            try:
                report = read_eval_report(workdir, int(path.stem))
            except CheckpointError:
                continue
            if report is not None:
                found.append((report.bpd, report.step))
    return min(found)[1] if found else None


def write_eval_report(workdir: str, report: BpdReport, kind: str = "") -> None:
    """Write eval/<step><kind>.json; that the file exists is the mark that the step is evaluated in this way."""
    path = epath.Path(workdir) / "eval" / f"{report.step}{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(asdict(report), indent=2) + "\n").encode())


def read_eval_report(workdir: str, step: int, kind: str = "", *, split: str = "test") -> BpdReport | None:
    """Return the report of a step, None if it was not evaluated in this way.

    That it is of these parameters, `pipelines.evaluation.files.check_measured` says.

    Args:
      workdir: run directory.
      step: step of the checkpoint.
      kind: what distinguishes the measurement from the run's own way, empty for that one.
      split: which images.

    Raises:
      CheckpointError: the file is not a report of this version, or one of another step or split.
    """
    path = epath.Path(workdir) / "eval" / f"{step}{kind}.json"
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no report of this version ({error}): measure again with `vdm eval --force`"
        ) from error
    report = BpdReport.from_fields(fields, str(path))
    if (report.step, report.split) != (step, split):
        raise CheckpointError(
            f"{path} is a report of another measurement (step {report.step}, {report.split} images): "
            "measure again with `vdm eval --force`"
        )
    return report


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def check_same_data(known: Mapping[str, str], at_hand: Mapping[str, str], *, allow_other: bool = False) -> bool:
    """Return whether two sets of fingerprints by split agree where both know a split.

    Args:
      known: those of the data that a run, or a bundle made of it, began with.
      at_hand: those of a data directory.
      allow_other: return False for other data instead of raising.

    Raises:
      CheckpointError: other data; names the first split that differs.
    """
    for name in sorted(known.keys() & at_hand.keys()):
        if known[name] != at_hand[name]:
            if allow_other:
                return False
            raise CheckpointError(
                f"the run was trained on other data: its {name} fingerprint is {known[name][:12]}..., this data "
                f"directory's is {at_hand[name][:12]}...: give the data directory it began with, or --allow-other-data"
            )
    return True


def data_metadata(
    data: epath.PathLike, before: dict[str, Any] | None = None, *, allow_other: bool = False
) -> dict[str, Any]:
    """Return what a checkpoint says about its data: the fingerprints of all splits, and of data it trained on before.

    Args:
      data: data directory.
      before: metadata of the checkpoint that training goes on from; None at the start.
      allow_other: go on although its train images were others.

    Raises:
      CheckpointError: other train images than before.
      DataError: the data directory has no manifest.
    """
    at_hand = {name: split.fingerprint for name, split in read_manifest(data).splits.items()}
    if before is None:
        return {"data_fingerprints": at_hand}
    known, earlier = before["data_fingerprints"], before.get("earlier_data_fingerprints", [])
    trained_on = {name: value for name, value in known.items() if name == "train"}
    if not check_same_data(trained_on, at_hand, allow_other=allow_other):
        earlier = [*earlier, known]
    return {"data_fingerprints": at_hand} | ({"earlier_data_fingerprints": earlier} if earlier else {})
