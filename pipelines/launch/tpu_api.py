"""What is done to TPU VMs, as calls of gcloud: list, describe, create, delete."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipelines.launch.errors import CallError, LaunchError
from pipelines.launch.gcloud import TRANSIENT
from pipelines.launch.remote import Call
from pipelines.launch.tpu_request import EXPIRES_LABEL, RUN_LABEL, TpuRequest

_LOOK_S, _CREATE_S, _DELETE_S = 120.0, 1800.0, 900.0
TERMINAL = frozenset({"PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDDEN", "HIDING"})
"""States of a TPU VM that does not come back by itself; it keeps its quota until it is deleted."""
_QUEUE_ENDED = frozenset({"FAILED", "SUSPENDING", "SUSPENDED", "DELETING"})
_Json = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A TPU VM or a queued resource that this project made.

    Attributes:
        name: of both.
        zone: where it is.
        kind: node or queue; a queued resource that has its node is told as that.
        state: as Google gives it, such as READY or WAITING_FOR_RESOURCES.
        accelerator: accelerator type.
        run_id: the run that it is for.
        expires: when it must be gone, seconds since 1970; None if it has no such time.
        num_workers: machines, 0 if there is none yet.
    """

    name: str
    zone: str
    kind: str
    state: str
    accelerator: str
    run_id: str
    expires: int | None
    num_workers: int

    @property
    def is_leak(self) -> bool:
        """Say whether nobody can be using it: its time is over, or it has ended and only holds quota."""
        ended = self.state in TERMINAL or (self.kind == "queue" and self.state in _QUEUE_ENDED)
        return ended or (self.expires is not None and time.time() > self.expires)


@dataclass(frozen=True)
class TpuApi:
    """The TPU VMs of a project.

    Attributes:
        call: runs gcloud.
        project: None is gcloud's own.
        say: takes one line about what happens.
        poll_s: seconds between two looks at something that takes time.
    """

    call: Call
    project: str | None = None
    say: Callable[[str], None] = field(default=lambda _: None, repr=False)
    poll_s: float = 15.0

    def place(self, zone: str) -> tuple[str, ...]:
        """Return the flags that say where something is."""
        return (*((f"--project={self.project}",) if self.project else ()), f"--zone={zone}")

    def check_login(self) -> None:
        """Raise LaunchError unless gcloud is installed, logged in and knows the project."""
        core = self._json(["config", "list", "--format=json"], _LOOK_S).get("core", {})
        if not core.get("account"):
            raise LaunchError("gcloud is not logged in: run `gcloud auth login`")
        if not (self.project or core.get("project")):
            raise LaunchError("no project: give --project, or run `gcloud config set project PROJECT`")

    def node(self, name: str, zone: str) -> _Json | None:
        """Return a TPU VM, None if there is none; any other failure is raised, for it says nothing about that."""
        return self._describe("tpu-vm", name, zone)

    def queue(self, name: str, zone: str) -> _Json | None:
        """Return a queued resource, None if there is none."""
        return self._describe("queued-resources", name, zone)

    def find_all(self, zone: str = "-") -> list[Found]:
        """Return what this project made in a zone, or in all of them."""
        found = {}
        for kind, words in (("queue", "queued-resources"), ("node", "tpu-vm")):
            answer = self._json(["compute", "tpus", words, "list", *self.place(zone), "--format=json"], _LOOK_S)
            for each in answer:
                spec = each["tpu"]["nodeSpec"][0]["node"] if kind == "queue" else each
                labels = spec.get("labels", {})
                if RUN_LABEL in labels:
                    where, _, name = each["name"].split("/locations/")[1].split("/")
                    expires = labels.get(EXPIRES_LABEL)
                    found[where, name] = Found(
                        name=name, zone=where, kind=kind, accelerator=spec.get("acceleratorType", ""),
                        state=each["state"]["state"] if kind == "queue" else each["state"],
                        run_id=labels[RUN_LABEL], expires=int(expires) if expires else None,
                        num_workers=len(spec.get("networkEndpoints", [])),
                    )  # fmt: skip
        return sorted(found.values(), key=lambda each: (each.name, each.zone))

    def create(self, request: TpuRequest, zone: str, expires: int) -> None:
        """Ask for a slice in a zone; with a queue this returns at once, without one when the VM is there.

        Raises:
          CallError: refused; STOCKOUT and QUOTA are the statuses to look for.
        """
        where = ["queued-resources" if request.queued else "tpu-vm", "create", request.name, *self.place(zone)]
        labels = {**request.labels, RUN_LABEL: request.run_id, EXPIRES_LABEL: str(expires)}
        version = request.runtime_version or request.slice.runtime_version
        flags = [f"--accelerator-type={request.accelerator}"]
        if request.queued:
            wait_s = max(60, int(request.wait_hours * 3600 / len(request.zones)))
            flags += [f"--node-id={request.name}", f"--runtime-version={version}", f"--valid-until-duration={wait_s}s"]
        else:
            flags += [f"--version={version}"]
        flags += [f"--labels={','.join(f'{key}={value}' for key, value in sorted(labels.items()))}"]
        if request.provisioning != "on-demand":
            flags.append(f"--{request.provisioning}")
        for key in ("network", "subnetwork", "service_account"):
            if value := getattr(request, key):
                flags.append(f"--{key.replace('_', '-')}={value}")
        if request.internal_ips:
            flags.append("--internal-ips")
        self._text(["compute", "tpus", *where, *flags, "--format=json"], _CREATE_S)

    def delete(self, name: str, zone: str, interrupted: bool = False) -> None:
        """Delete the queued resource and the TPU VM of a name, and return when both are gone.

        Args:
          name: of both.
          zone: where they are.
          interrupted: the call that created them was cut off, so that they may still appear: look twice.

        Raises:
          LaunchError: they could not be deleted; the message holds the commands that do it by hand.
        """
        deadline = time.monotonic() + _DELETE_S
        commands = (
            ["compute", "tpus", "queued-resources", "delete", name, *self.place(zone), "--force", "--quiet"],
            ["compute", "tpus", "tpu-vm", "delete", name, *self.place(zone), "--quiet"],
        )
        absent_looks = 2 if interrupted else 1
        while absent_looks:
            problem = None
            was_there = False
            for words in commands:
                try:
                    self._text([*words, "--format=json"], _DELETE_S)
                    was_there = True
                except CallError as error:
                    if error.status != "NOT_FOUND":
                        problem = error
            if problem is None:
                if was_there:
                    return
                absent_looks -= 1
            elif time.monotonic() > deadline or problem.status in ("PERMISSION_DENIED", "UNAUTHENTICATED", "USAGE"):
                by_hand = " ; ".join("gcloud " + " ".join(words) for words in commands)
                raise LaunchError(f"{name} in {zone} may still cost money ({problem}); delete it by: {by_hand}")
            if absent_looks:
                time.sleep(self.poll_s)

    def _describe(self, kind: str, name: str, zone: str) -> _Json | None:
        try:
            return self._json(["compute", "tpus", kind, "describe", name, *self.place(zone), "--format=json"], _LOOK_S)
        except CallError as error:
            if error.status == "NOT_FOUND":
                return None
            raise

    def _json(self, words: list[str], timeout_s: float) -> Any:
        text = self._text(words, timeout_s)
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise CallError("UNKNOWN", f"gcloud {' '.join(words[:4])} gave no JSON: {text[:80]!r}") from None

    def _text(self, words: list[str], timeout_s: float) -> str:
        return self.call(words, timeout_s)


def is_passing(error: CallError) -> bool:
    """Say whether the same call may work a little later."""
    return error.status in TRANSIENT
