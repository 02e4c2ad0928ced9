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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from etils import epath

from pipelines.bundle.check import SUMS
from pipelines.bundle.place import is_remote, staged
from vdm_lib.errors import ConfigError, VdmError
from vdm_lib.records import write_atomically
from vdm_lib.storage import storage_errors

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
        if "/" in version or not (place / SUMS).exists():
            known = ", ".join(self.versions()) or "none"
            raise VdmError(f"{self._root} has no version {version!r}; there are: {known}")
        return place

    def versions(self) -> list[str]:
        """Return all versions, in alphabetical order."""
        if not self._root.exists():
            return []
        return sorted(path.name for path in self._root.iterdir() if (path / SUMS).exists())

    def pointer(self, kind: Literal["latest", "promoted"]) -> str | None:
        """Return the version that a pointer names, None if it was never set."""
        path = self._root / kind
        return path.read_text().strip() if path.exists() else None

    def history(self) -> list[Change]:
        """Return all changes, oldest first; a last line that was cut short is left out.

        Raises:
            VdmError: a line that is no change.
        """
        path = self._root / "history.jsonl"
        if not path.exists():
            return []
        changes = []
        for number, line in enumerate(path.read_text().splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                break
            try:
                changes.append(Change(**json.loads(line)))
            except (TypeError, ValueError):
                raise VdmError(f"{path}, line {number}, is no change of a model: mend or remove that line") from None
        return changes

    def add(self, bundle: Path, *, who: str, why: str) -> str:
        """Copy a bundle into the registry and return its version; one that is there already is left as it is."""
        version = version_of(bundle)
        with self._changing():
            if version in self.versions():
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

    def promote(self, version: str, *, who: str, why: str) -> str | None:
        """Point users to a version and return the one before it.

        Raises:
            VdmError: there is no such version.
        """
        with self._changing():
            self.directory(version)
            before = self.pointer("promoted")
            if before != version:
                self._record("promote", version, who, why)
                self._point("promoted", version)
        return before

    def refuse(self, version: str, *, who: str, why: str) -> None:
        """Write down that a version was not promoted."""
        with self._changing():
            self._record("refuse", version, who, why)

    def rollback(self, *, who: str, why: str) -> tuple[str, str]:
        """Point users back to what the promoted version replaced; return both, the new one first.

        Raises:
            VdmError: nothing was promoted, nothing before it, or that version is gone.
        """
        with self._changing():
            now = self.pointer("promoted")
            if now is None:
                raise VdmError(f"{self._root} has nothing promoted, so nothing to roll back")
            replaced = [
                change.before for change in self.history() if (change.action, change.version) == ("promote", now)
            ]
            target = replaced[-1] if replaced else None
            if target is None:
                raise VdmError(f"{self._root}: nothing was promoted before {now}")
            self.directory(target)
            self._record("rollback", target, who, why)
            self._point("promoted", target)
        return target, now

    def _record(self, action: Action, version: str, who: str, why: str) -> None:
        """Add a line before the pointer moves: a crash between the two leaves a line too many, never one too few."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = Change(time=now, action=action, version=version, before=self.pointer("promoted"), who=who, why=why)
        line = json.dumps(asdict(change)) + "\n"
        path = self._root / "history.jsonl"
        before = path.read_text() if path.exists() else ""
        # A line that a crash cut short would swallow this one.
        whole = before[: before.rfind("\n") + 1]
        write_atomically(path, (whole + line).encode())

    def _point(self, kind: Literal["latest", "promoted"], version: str) -> None:
        write_atomically(self._root / kind, f"{version}\n".encode())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with storage_errors(self._root):
            if is_remote(str(self._root)):
                yield
                return
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                with Path(self._root / ".lock").open("w") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    yield
            except OSError as error:
                raise VdmError(f"cannot change {self._root}: {error.strerror or error}") from error


def version_of(bundle: epath.Path | Path) -> str:
    """Return the version of a bundle, the same for the same bytes: its step and a digest of its checksums."""
    step = json.loads((bundle / "provenance.json").read_text())["step"]
    return f"{int(step):08d}-{hashlib.sha256((bundle / SUMS).read_bytes()).hexdigest()[:8]}"


def metrics_of(bundle: epath.Path | Path) -> dict[str, Any]:
    """Return what a bundle says about its bits per dimension."""
    return json.loads((bundle / "metrics.json").read_text())
