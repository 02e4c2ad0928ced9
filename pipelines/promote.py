"""The jobs `vdm promote` and `vdm rollback`: which version of a model users shall take."""

import getpass
import math
from typing import Any

from etils import epath

from pipelines.bundle.fresh import run_checks
from pipelines.bundle.place import fetched
from pipelines.registry import Model, metrics_of, provenance_of
from pipelines.results import PromoteResult
from vdm_lib.errors import VdmError
from vdm_lib.files.storage import storage_errors

# A candidate may be worse by this many standard errors of the difference: noise is no reason to refuse it.
_LARGEST_ERRORS = 2.0


def run(
    bundle: str, registry: str, *, name: str | None = None, who: str | None = None, why: str = "", force: bool = False
) -> PromoteResult:
    """Verify a bundle, add it to the registry, and promote it if it is not worse than what is promoted.

    Args:
        bundle: a bundle, local or gs://, or a version that the registry has already (then `name` is needed).
        registry: the registry, local or gs://; made if absent.
        name: name of the model; None takes the experiment of the bundle.
        who: who decides, for the history; None takes the name of the user.
        why: why, for the history.
        force: promote without comparing; the bundle must still verify.

    Raises:
        VdmError: the bundle does not verify, or the gate refuses it; the message says why.
    """
    who = who or _user()
    with storage_errors(registry):
        # Said before the bundle is verified, which takes its time.
        if epath.Path(registry).exists() and not epath.Path(registry).is_dir():
            raise VdmError(f"{registry} is a file: a registry is a directory, give another --registry")
    known = name is not None and "/" not in bundle and Model(registry, name).has(bundle)
    place = str(Model(registry, name).directory(bundle)) if known and name else bundle
    with fetched(place) as directory:
        run_checks(directory)
        name = name or str(provenance_of(directory).get("experiment", ""))
        model = Model(registry, name)
        candidate = metrics_of(directory)
        version = model.add(directory, who=who, why=why)

    def gate(before: str | None) -> str | None:
        return objection(candidate, None if before is None else metrics_of(model.directory(before)))

    before, refused = model.promote(version, who=who, why=why, **({} if force else {"gate": gate}))
    if refused is not None:
        raise VdmError(
            f"{name} {version} is in {registry} but not promoted: {refused} (--force promotes it all the same)"
        )
    return PromoteResult(
        registry=registry,
        name=name,
        version=version,
        before=before,
        bpd=candidate["bpd"],
        bpd_stderr=candidate["bpd_stderr"],
    )


def rollback(name: str, registry: str, *, who: str | None = None, why: str = "") -> PromoteResult:
    """Promote again what the promoted version replaced.

    Args:
        name: name of the model.
        registry: the registry, local or gs://.
        who: who decides, for the history; None takes the name of the user.
        why: why, for the history.

    Raises:
        VdmError: there is nothing to go back to, or it is damaged; users then take what they took.
    """
    with storage_errors(registry):
        if not epath.Path(registry).exists():
            raise VdmError(f"{registry} is no registry: `vdm promote` makes one")
    model = Model(registry, name)
    version, before = model.rollback(who=who or _user(), why=why)
    metrics = metrics_of(model.directory(version))
    return PromoteResult(
        registry=registry,
        name=name,
        version=version,
        before=before,
        bpd=metrics["bpd"],
        bpd_stderr=metrics["bpd_stderr"],
    )


def objection(candidate: dict[str, Any], promoted: dict[str, Any] | None) -> str | None:
    """Return why a candidate must not be promoted, None if it may.

    Args:
        candidate: its metrics.json.
        promoted: that of the promoted version, None if there is none.
    """
    if candidate["bpd"] is None:
        return "its bpd was not measured: run vdm eval, then export again"
    if promoted is None or promoted["bpd"] is None:
        return None
    # A bundle of an older version may not say what its model was told: it knew no classes.
    for key, what, absent in (
        ("data_fingerprint", "on other images", None),
        ("timesteps", "with another number of steps T", None),
        ("labels", "given other labels", ""),
    ):
        if candidate.get(key, absent) != promoted.get(key, absent):
            return f"its bpd was measured {what} than that of the promoted version, so they cannot be compared"
    worse = candidate["bpd"] - promoted["bpd"]
    # Without a known error nothing is put down to noise.
    error = math.hypot(candidate.get("bpd_stderr") or 0.0, promoted.get("bpd_stderr") or 0.0)
    if not worse <= _LARGEST_ERRORS * error:
        return (
            f"it is worse by {worse:.4f} ± {error:.4f} bits/dim than the promoted version "
            f"({candidate['bpd']:.4f} against {promoted['bpd']:.4f}), more than {_LARGEST_ERRORS:g} errors"
        )
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    # A container's user may have no name.
    except (KeyError, OSError):
        return "unknown"
