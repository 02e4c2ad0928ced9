"""Checkpoints with orbax: asynchronous, atomic, rotated; what they were made of and with lies beside the arrays."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding

from vdm_lib.errors import CheckpointError, NewerCheckpointError
from vdm_lib.files.checksums import leaf_checksums
from vdm_lib.gamma_types import other_gamma_type
from vdm_lib.hosts import first_says, is_first, together
from vdm_lib.state import TrainState

FORM = 1
"""Version of the stored form. A program reads all forms up to its own."""
_REMEDY = "choose another step or remove its directory"


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints stay when a new one is written.

    Attributes:
        newest: that many of the newest.
        every: those whose step is a multiple of this; None for none.
        best: returns the step to keep for its bpd, None for none; asked before each write, on the first process.
    """

    newest: int
    every: int | None = None
    best: Callable[[], int | None] = lambda: None


class _Policy:
    """What `Keep` says, as orbax asks for it."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = set(sorted(steps)[-self._keep.newest :])
        every = self._keep.every
        return [step in newest or step == self.best or (every is not None and step % every == 0) for step in steps]

    def ask(self) -> None:
        """Learn the best step, the same on all processes."""
        best = self._keep.best() if is_first() else None
        answer = first_says(-1 if best is None else best)
        self.best = None if answer < 0 else answer


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager, which waits for writes under way."""

    def __init__(self, workdir: str, *, keep: Keep | None = None, sparing: bool = False) -> None:
        """Open `workdir`/checkpoints.

        Args:
          workdir: run directory.
          keep: which are kept; None keeps all and makes no directory.
          sparing: write with little memory beside the state itself: a few arrays at a time, each to a file of its
            own, uncompressed. Slower; read like any other.
        """
        # Orbax wants absolute paths; `resolve` would take gs:// for a local one.
        place = epath.Path(workdir) if workdir.startswith("gs://") else epath.Path(workdir).resolve()
        self._directory = place / "checkpoints"
        self._policy = None if keep is None else _Policy(keep)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(preservation_policy=self._policy, create=keep is not None),
            item_handlers={
                "state": _sparing_handler() if sparing else ocp.PyTreeCheckpointHandler(),
                "metadata": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps that were written completely, ascending."""
        return sorted(self._manager.all_steps()) if self._directory.exists() else []

    def save(self, state: TrainState, metadata: dict[str, Any]) -> None:
        """Start writing the state under its own step; it counts only once it is complete.

        Raises:
          CheckpointError: the place cannot be written, a full disk for one.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        together(lambda: self._check_space(sum(leaf.nbytes for leaf in jax.tree.leaves(_plain(state)))))
        if self._policy is not None:
            self._policy.ask()
        arrays = ocp.args.PyTreeSave(_plain(state))
        record = ocp.args.JsonSave({**metadata, "form": FORM, "checksums": _checksums(state)})
        try:
            self._manager.save(step, args=ocp.args.Composite(state=arrays, metadata=record))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot write checkpoint {step} in {self._directory}: {_one_line(error)}") from error

    def _check_space(self, num_bytes: int) -> None:
        """Raise CheckpointError before anything is written where a local disk cannot hold num_bytes more.

        Asked beforehand, because a disk that fills up during an asynchronous write ends in orbax's own tracebacks.
        """
        if str(self._directory).startswith("gs://"):
            return
        free = shutil.disk_usage(self._directory).free
        if free < num_bytes:
            raise CheckpointError(
                f"no space for a checkpoint in {self._directory}: {num_bytes / 1e6:.1f} MB needed, {free / 1e6:.1f} MB "
                "free; the checkpoints before it are kept. Free some space and run the same command again"
            )

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
          CheckpointError: the write failed, a full disk for one.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot write a checkpoint in {self._directory}: {_one_line(error)}") from error

    def restore(self, step: int, abstract: TrainState, sharding: Sharding | None = None) -> TrainState:
        """Return the state of a step; `abstract` gives its shapes, and its shardings if `sharding` does not.

        Raises:
          NewerCheckpointError: written by a newer version of this project.
          CheckpointError: missing, damaged, or of another architecture.
        """
        self.metadata(step)
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), _plain(abstract)
        )
        arguments = ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
        state = TrainState(**self._restore(step, state=arguments)["state"])
        self._check(step, state)
        return state

    def set_aside(self, step: int) -> epath.Path:
        """Move a checkpoint out of the way, on all processes together, and return where it is now."""
        place = self._directory.parent / "checkpoints-damaged" / str(step)

        def move() -> None:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                place.rmtree()
            _move(self._directory / str(step), place)

        together(lambda: move() if is_first() else None)
        self._manager.reload()
        return place

    def metadata(self, step: int) -> dict[str, Any]:
        """Return what was saved beside the arrays.

        Raises:
          NewerCheckpointError: written by a newer version of this project.
          CheckpointError: no such checkpoint, or a damaged one.
        """
        metadata = self._restore(step, metadata=ocp.args.JsonRestore())["metadata"]
        form = metadata.get("form", FORM) if isinstance(metadata, dict) else None
        if isinstance(form, int) and form > FORM:
            raise NewerCheckpointError(
                f"checkpoint {step} of {self._directory} has form {form}, this version of vdm-pipeline "
                f"reads forms up to {FORM}: install the version that wrote it, see provenance.json, or a newer one"
            )
        if not isinstance(form, int) or not _is_whole(metadata):
            raise CheckpointError(f"the metadata of checkpoint {step} of {self._directory} is damaged: {_REMEDY}")
        return metadata

    def _check(self, step: int, state: TrainState) -> None:
        """Raise CheckpointError if an array is not, bit by bit, what was saved."""
        saved = self.metadata(step).get("checksums")
        found = _checksums(state)
        if saved is None or saved == found:
            return
        damaged = next(path for path, checksum in found.items() if saved.get(path) != checksum)
        raise CheckpointError(f"checkpoint {step} of {self._directory} is damaged: {damaged} changed; {_REMEDY}")

    def _restore(self, step: int, **items: Any) -> Any:
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"no checkpoint of step {step} in {self._directory}; there are: {known}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        # What orbax and its storage raise for damaged files is not one family of errors.
        except Exception as error:
            reason = self._what_differs(step, items) or f"{_one_line(error)}; {_REMEDY}"
            raise CheckpointError(f"cannot restore checkpoint {step} of {self._directory}: {reason}") from error

    def _what_differs(self, step: int, items: dict[str, Any]) -> str:
        """Return what is otherwise than asked for and what helps, where a checkpoint's record can be read, or ''."""
        if "state" not in items:
            return ""
        wanted = items["state"].item
        try:
            found = self._manager.item_metadata(step)["state"]
            if lacking := sorted(set(wanted) - set(found)):
                return f"it has no {' and no '.join(lacking)}; {_REMEDY}"
            other = other_gamma_type(*(tree["params"].get("gamma", {}) for tree in (found, wanted)))
            return other and f"{other}; take the config that it was trained with"
        # What made the restore fail may keep this from being read as well.
        except Exception:
            return ""


def _sparing_handler() -> ocp.PyTreeCheckpointHandler:
    # Measured on 489 MB: 1.3 times that at its peak, against 1.5 with compression or with one file for all arrays.
    # Orbax writes "int" for the limit, in 1e9 bytes, and takes fractions as well.
    limit: Any = 0.05
    return ocp.PyTreeCheckpointHandler(save_concurrent_gb=limit, use_ocdbt=False, use_compression=False)


def _move(source: epath.Path, target: epath.Path) -> None:
    """Move a directory; an object store has none, so there its objects are copied one by one."""
    if str(source).startswith("gs://"):
        import fsspec

        fsspec.filesystem("gs").mv(str(source), str(target), recursive=True)
    else:
        source.rename(target)


def _is_whole(metadata: dict[str, Any]) -> bool:
    """Say whether the entries that this project reads are of their types."""
    fingerprints, checksums = metadata.get("data_fingerprints"), metadata.get("checksums")
    return (
        isinstance(fingerprints, dict)
        and all(isinstance(each, str) for each in fingerprints.values())
        and isinstance(metadata.get("earlier_data_fingerprints", []), list)
        and (checksums is None or isinstance(checksums, dict))
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split("See full TensorStore details")[0].split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _checksums(state: TrainState) -> dict[str, int]:
    """Return path -> checksum of every array of a state."""
    tree = _plain(state)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)]
    return dict(zip(paths, leaf_checksums(tree), strict=True))


def _plain(state: TrainState) -> dict[str, Any]:
    """Return the state as a dict: what is stored does not depend on the class."""
    return {
        "step": state.step,
        "params": state.params,
        "ema_params": state.ema_params,
        "opt_state": state.opt_state,
    }
