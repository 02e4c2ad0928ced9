"""A directory of published models: versions that never change, and pointers that say which one is meant.

    REGISTRY/NAME/VERSION/       a bundle; the version is its step and the digest of its checksums
    REGISTRY/NAME/latest         the version that was added last
    REGISTRY/NAME/promoted       the version that users shall take
    REGISTRY/NAME/history.jsonl  every change: when, who, what, why

A pointer is a file of one line that is replaced as a whole, so a reader sees the old version or the new one. On a
local disk one process at a time changes a model; in gs:// nothing prevents two, so let one job do it. Imports no jax.
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from etils import epath

from pipelines.bundle.check import SUMS
from pipelines.bundle.place import is_remote, staged
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.files.records import TEMPORARY_MARK, write_atomically
from vdm_lib.files.storage import storage_errors

# What to do about a damaged bundle.
_RESTORE = "remove this bundle and put it there again"

Action = Literal["add", "promote", "refuse", "rollback"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One line of the history."""

    time: str
    """UTC, ISO 8601."""
    action: Action
    """`refuse` is a promotion that the gate did not let pass."""
    version: str
    before: str | None
    """What was promoted until then."""
    who: str
    why: str


class Model:
    """One name in a registry."""

    def __init__(self, registry: str, name: str) -> None:
        """Take a registry, local or gs://, and the name of a model; nothing is made yet.

        Raises:
            ConfigError: a name that is no plain directory name.
        """
        if not name or name.startswith(".") or "/" in name:
            raise ConfigError(f"a model's name is a plain word, got {name!r}")
        self.name = name
        self._root = epath.Path(registry) / name

    def directory(self, version: str) -> epath.Path:
        """Return where a version lies.

        Raises:
            VdmError: there is no such version.
        """
        place = self._root / version
        if not self.has(version):
            known = ", ".join(self.versions()) or "none"
            raise VdmError(f"{self._root} has no version {version!r}; there are: {known}")
        return place

    def has(self, version: str) -> bool:
        """Return whether there is a version of this name; one that is still being copied is none."""
        if "/" in version or TEMPORARY_MARK in version:
            return False
        with storage_errors(self._root):
            return (self._root / version / SUMS).exists()

    def versions(self) -> list[str]:
        """Return all versions, in alphabetical order."""
        with storage_errors(self._root):
            if not self._root.exists():
                return []
            return sorted(path.name for path in self._root.iterdir() if self.has(path.name))

    def pointer(self, kind: Literal["latest", "promoted"]) -> str | None:
        """Return the version that a pointer names, None if it was never set.

        Raises:
            VdmError: the file is damaged.
        """
        path = self._root / kind
        data = _read(path)
        if data is None:
            return None
        version = data.decode("utf-8", "replace").strip()
        if not re.fullmatch(r"[\w.-]+", version, re.ASCII):
            raise VdmError(f"{path} is damaged, it names no version: write one into it (see history.jsonl)")
        return version

    def verify(self, version: str) -> None:
        """Compare the files of a version with its checksums, and these with the digest in its name.

        The name vouches for the list, so this reads bundles of every schema.

        Raises:
            VdmError: there is no such version, or one of its files is missing or damaged.
        """
        place = self.directory(version)
        sums = _read(place / SUMS) or b""
        if hashlib.sha256(sums).hexdigest()[:8] != version[-8:]:
            raise VdmError(f"{place / SUMS} is damaged: {_RESTORE}")
        for line in sums.decode("utf-8", "replace").split("\n")[:-1]:
            expected, _, name = line.partition("  ")
            path = place / name
            with storage_errors(path):
                if not path.exists():
                    raise VdmError(f"{path} is missing: {_RESTORE}")
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    for piece in iter(lambda: file.read(1 << 20), b""):
                        digest.update(piece)
            if digest.hexdigest() != expected:
                raise VdmError(f"{path} is damaged, its SHA-256 is not the one in {SUMS}: {_RESTORE}")

    def history(self) -> list[Change]:
        """Return all changes, oldest first; a last line that was cut short is left out.

        Raises:
            VdmError: a line that is no change.
        """
        path = self._root / "history.jsonl"
        changes = []
        for number, line in enumerate((_read(path) or b"").split(b"\n")[:-1], start=1):
            try:
                change = Change(**json.loads(line.decode()))
                texts = [change.time, change.version, change.who, change.why]
                texts += [] if change.before is None else [change.before]
                if change.action not in get_args(Action) or not all(isinstance(text, str) for text in texts):
                    raise ValueError
                changes.append(change)
            except (TypeError, ValueError, RecursionError):
                raise VdmError(f"{path}, line {number}, is no change of a model: mend or remove that line") from None
        return changes

    def add(self, bundle: Path, *, who: str, why: str) -> str:
        """Copy a bundle into the registry and return its version; one that is there already is left as it is.

        Raises:
            VdmError: the version is there already, but damaged.
        """
        version = version_of(bundle)
        if not is_remote(str(self._root)):
            with self._disk_errors():
                self._root.mkdir(parents=True, exist_ok=True)
        with self._changing():
            # A damaged pointer stops the first line of the history: better before anything is copied.
            self.pointer("promoted")
            if self.has(version):
                self.verify(version)
                return version
            with staged(str(self._root / version), 0) as directory:
                for path in sorted(bundle.rglob("*")):
                    if path.is_file():
                        target = directory / path.relative_to(bundle)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(path.read_bytes())
            self._record("add", version, who, why)
            self._point("latest", version)
        return version

    def promote(
        self, version: str, *, who: str, why: str, gate: Callable[[str | None], str | None] = lambda _: None
    ) -> tuple[str | None, str | None]:
        """Point users to a version, unless the gate refuses it.

        Args:
            version: the version.
            who: who decides, for the history.
            why: why, for the history.
            gate: takes the promoted version, None if there is none, and returns why the new one must not replace it,
                None if it may; nobody changes the model between the question and what follows from the answer.

        Returns:
            the version that was promoted until then, and why the gate refused the new one; None for neither.

        Raises:
            VdmError: there is no such version.
        """
        self.directory(version)
        with self._changing():
            before = self.pointer("promoted")
            refused = None if before == version else gate(before)
            if refused is not None:
                self._record("refuse", version, who, refused)
            elif before != version:
                self._record("promote", version, who, why)
                self._point("promoted", version)
        return before, refused

    def rollback(self, *, who: str, why: str) -> tuple[str, str]:
        """Point users back to what the promoted version replaced; return both, the new one first.

        Raises:
            VdmError: nothing was promoted, nothing before it, or that version is gone or damaged; nothing is changed.
        """
        if self.pointer("promoted") is None:
            # Asked before the lock, which would need a directory.
            raise VdmError(f"{self._root} has nothing promoted, so nothing to roll back")
        with self._changing():
            now = self.pointer("promoted")
            if now is None:
                raise VdmError(f"{self._root} has nothing promoted, so nothing to roll back")
            replaced = [
                change.before for change in self.history() if (change.action, change.version) == ("promote", now)
            ]
            if not replaced:
                raise VdmError(
                    f"{self._root / 'history.jsonl'} is damaged or missing, it does not say what {now} replaced: "
                    "promote the version that you want by its name"
                )
            target = replaced[-1]
            if target is None:
                raise VdmError(f"{self._root}: nothing was promoted before {now}")
            self.verify(target)
            # Whatever its checksums say, a reader must be able to use it.
            metrics_of(self.directory(target))
            self._record("rollback", target, who, why)
            self._point("promoted", target)
        return target, now

    def _record(self, action: Action, version: str, who: str, why: str) -> None:
        """Add a line before the pointer moves: a crash between the two leaves a line too many, never one too few."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = Change(time=now, action=action, version=version, before=self.pointer("promoted"), who=who, why=why)
        line = json.dumps(asdict(change)) + "\n"
        path = self._root / "history.jsonl"
        before = _read(path) or b""
        # A line that a crash cut short would swallow this one.
        whole = before[: before.rfind(b"\n") + 1]
        write_atomically(path, whole + line.encode())

    def _point(self, kind: Literal["latest", "promoted"], version: str) -> None:
        write_atomically(self._root / kind, f"{version}\n".encode())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with storage_errors(self._root):
            if is_remote(str(self._root)):
                yield
                return
            with self._disk_errors(), Path(self._root / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VdmError(f"cannot change {self._root}: {error.strerror or error}") from error


def version_of(bundle: epath.Path | Path) -> str:
    """Return the version of a bundle, the same for the same bytes: its step and a digest of its checksums.

    Raises:
        VdmError: its provenance or its checksums are missing or damaged.
    """
    step = provenance_of(bundle).get("step")
    sums = _read(bundle / SUMS)
    if type(step) is not int or step < 0:
        raise VdmError(f"{bundle / 'provenance.json'} is damaged, it names no step: {_RESTORE}")
    if sums is None:
        raise VdmError(f"{bundle / SUMS} is missing: {_RESTORE}")
    return f"{step:08d}-{hashlib.sha256(sums).hexdigest()[:8]}"


def provenance_of(bundle: epath.Path | Path) -> dict[str, Any]:
    """Return where a bundle comes from.

    Raises:
        VdmError: provenance.json is missing or damaged.
    """
    return _read_object(bundle / "provenance.json")


def metrics_of(bundle: epath.Path | Path) -> dict[str, Any]:
    """Return what a bundle says about its bits per dimension; `bpd` and `bpd_stderr` are floats or None.

    Raises:
        VdmError: metrics.json is missing or damaged.
    """
    metrics = _read_object(bundle / "metrics.json")
    for key in ("bpd", "bpd_stderr"):
        value = metrics.get(key)
        try:
            if isinstance(value, bool | str):
                raise ValueError
            metrics[key] = None if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            raise VdmError(f"{bundle / 'metrics.json'} is damaged, {key} is no number: {_RESTORE}") from None
    return metrics


def _read_object(path: epath.Path | Path) -> dict[str, Any]:
    data = _read(path)
    if data is None:
        raise VdmError(f"{path} is missing: {_RESTORE}")
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise VdmError(f"{path} is damaged, it holds no JSON object: {_RESTORE}")
    return values


def _read(path: epath.Path | Path) -> bytes | None:
    """Return the bytes of a file, None if there is none."""
    with storage_errors(path):
        return path.read_bytes() if path.exists() else None
