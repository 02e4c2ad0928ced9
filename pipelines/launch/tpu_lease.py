"""Get a slice, know whose it is, and give it back: everything that was asked for is deleted, whatever happens."""

import time
from dataclasses import dataclass, field
from typing import Any

from pipelines.launch.budget import Budget
from pipelines.launch.errors import NO_CAPACITY, CallError, LaunchError
from pipelines.launch.gcloud import classify
from pipelines.launch.tpu_api import TERMINAL, TpuApi, is_passing
from pipelines.launch.tpu_request import EXPIRES_LABEL, RUN_LABEL, TpuRequest
from pipelines.launch.verdict import Verdict

_READY_S = 1800.0
_SAME_ZONE_TRIES = 3


@dataclass
class TpuLease:
    """The slice of a request, held at most once at a time.

    Attributes:
        api: Google's side.
        request: what is asked for.
        budget: how long it may be held.
        zone: where it is held or was asked for last, None if nowhere.
        num_workers: its machines.
        adopted: it was there already, for the same run.
    """

    api: TpuApi
    request: TpuRequest
    budget: Budget
    zone: str | None = None
    num_workers: int = 0
    adopted: bool = False
    _cut_off: bool = field(default=False, init=False)

    def acquire(self) -> None:
        """Take over the run's own slice, or create one: zone after zone, until there is capacity or time is up.

        Raises:
          LaunchError: the name belongs to another run, the quota is full, a request is refused, or no capacity.
        """
        try:
            self.adopted = self._adopt()
        except CallError as error:
            raise LaunchError(f"cannot look for {self.request.name}: {error}") from error
        if self.adopted:
            return
        deadline = time.monotonic() + self.request.wait_hours * 3600
        while True:
            for zone in self.request.zones:
                if self._create_in(zone):
                    return
            if time.monotonic() + self.api.poll_s > deadline:
                zones = ", ".join(self.request.zones)
                raise LaunchError(
                    f"{NO_CAPACITY} {self.request.accelerator} in {zones} within {self.request.wait_hours:g} hours: "
                    "try more --zones, a longer --wait, or --spot"
                )
            time.sleep(min(60.0, 4 * self.api.poll_s))

    def release(self) -> None:
        """Delete what was asked for, if anything was; raises LaunchError if that cannot be done."""
        if self.zone is None:
            return
        self.api.say(f"deleting {self.request.name} in {self.zone}")
        self.api.delete(self.request.name, self.zone, interrupted=self._cut_off)
        self.budget.pause()
        self.zone, self._cut_off = None, False

    def condition(self) -> Verdict:
        """Return whether the slice is there: RUNNING, GONE, DELETED, or LIMIT if it was held long enough.

        A call that fails says nothing: RUNNING.
        """
        if self.budget.left_hours <= 0:
            return Verdict.LIMIT
        assert self.zone is not None
        try:
            node = self.api.node(self.request.name, self.zone)
            if node is None:
                # A spot slice that was taken away may leave only its queued resource.
                queue = self.api.queue(self.request.name, self.zone) if self.request.queued else None
                return Verdict.DELETED if queue is None else Verdict.GONE
        except CallError as error:
            self.api.say(f"cannot look at {self.request.name} now, which says nothing about it: {error}")
            return Verdict.RUNNING
        return Verdict.GONE if node["state"] in TERMINAL else Verdict.RUNNING

    def _adopt(self) -> bool:
        """Take over a slice of this name if it is this run's and alive; delete it if it is this run's and is not."""
        for zone in self.request.zones:
            node, queue = self._look(zone)
            if node is None and queue is None:
                continue
            self._check_owner(node, queue, zone)
            self.zone = zone
            if (node is None or node["state"] not in TERMINAL) and not _queue_is_over(queue):
                self.api.say(f"{self.request.name} in {zone} is this run's own: going on with it")
                self._end_with_label(node, queue)
                try:
                    self._wait_until_ready(zone)
                    return True
                except CallError as error:
                    self.api.say(f"{self.request.name} in {zone} came to nothing: {error}")
            self.release()
        return False

    def _create_in(self, zone: str) -> bool:
        """Create the slice in a zone; False if there is no capacity now."""
        for attempt in range(1, _SAME_ZONE_TRIES + 1):
            self.zone, self._cut_off = zone, True
            expires = time.time() + 3600 * (self.request.wait_hours + self.budget.left_hours)
            how = "queued resource" if self.request.queued else "TPU VM"
            self.api.say(f"asking for {self.request.accelerator} in {zone} ({how}, {self.request.provisioning})")
            try:
                self.api.create(self.request, zone, int(expires))
                self._cut_off = False
                self._wait_until_ready(zone)
                return True
            except CallError as error:
                self._cut_off = self._cut_off and is_passing(error)
                if error.status == "ALREADY_EXISTS":
                    # An earlier call of ours that was cut off, or somebody else since the first look.
                    self._cut_off = True
                if self._is_there(zone, error):
                    return True
                self.release()
                if error.status == "QUOTA":
                    raise LaunchError(
                        f"the quota is full: {error}. Ask for more at "
                        "https://console.cloud.google.com/iam-admin/quotas, or delete what holds it (vdm tpu list)"
                    ) from error
                if error.status in ("STOCKOUT", "PREEMPTED"):
                    self.api.say(f"no capacity in {zone}: {error}")
                    return False
                if not is_passing(error) or attempt == _SAME_ZONE_TRIES:
                    raise LaunchError(f"cannot create {self.request.name} in {zone}: {error}") from error
                self.api.say(f"trying again: {error}")
                time.sleep(self.api.poll_s)
        return False

    def _is_there(self, zone: str, error: CallError) -> bool:
        """Say whether a creation that was cut off came about after all."""
        if not self._cut_off:
            return False
        try:
            node, queue = self._look(zone)
            if node is None and queue is None:
                return False
            self._check_owner(node, queue, zone)
            self._wait_until_ready(zone)
        except CallError:
            return False
        self._cut_off = False
        return True

    def _look(self, zone: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        name = self.request.name
        return self.api.node(name, zone), self.api.queue(name, zone) if self.request.queued else None

    def _wait_until_ready(self, zone: str) -> None:
        """Wait for a slice that was asked for; raises CallError if it does not come."""
        name = self.request.name
        queue_until = time.monotonic() + self.request.wait_hours * 3600 / len(self.request.zones)
        shown = ""
        while self.request.queued:
            queue = self._patiently(self.api.queue, zone)
            if queue is None:  # made without a queue, by an earlier launch
                break
            state = queue["state"]["state"]
            if state != shown:
                self.api.say(f"{name} in {zone}: {state.lower().replace('_', ' ')}")
                shown = state
            if state == "ACTIVE":
                break
            if _queue_is_over(queue):
                message = queue["state"].get("failedData", {}).get("error", {}).get("message", f"it is {state}")
                status = classify(1, f'ERROR: {{"code": 8, "message": "{message}"}}')
                raise CallError("STOCKOUT" if state != "FAILED" else status, message)
            if time.monotonic() > queue_until:
                raise CallError("STOCKOUT", "the time to wait in this zone is over")
            time.sleep(self.api.poll_s)
        ready_until = time.monotonic() + _READY_S
        while True:
            node = self._patiently(self.api.node, zone)
            if node is not None and node["state"] == "READY":
                self.num_workers = len(node["networkEndpoints"])
                self.budget.start()
                self.api.say(f"{name} in {zone} is ready: {self.num_workers} workers")
                return
            if node is not None and node["state"] in TERMINAL:
                raise CallError("PREEMPTED", f"it is in state {node['state']}")
            if time.monotonic() > ready_until:
                raise CallError("STOCKOUT", f"it was not ready within {_READY_S:.0f} s")
            time.sleep(self.api.poll_s)

    def _patiently(self, look: Any, zone: str) -> Any:
        """Look at something, again if the call fails for a reason that passes."""
        for tries_left in range(4, -1, -1):
            try:
                return look(self.request.name, zone)
            except CallError as error:
                if not is_passing(error) or not tries_left:
                    raise
            time.sleep(self.api.poll_s)
        return None

    def _check_owner(self, node: dict[str, Any] | None, queue: dict[str, Any] | None, zone: str) -> None:
        run_id = _labels(node, queue).get(RUN_LABEL)
        if run_id != self.request.run_id:
            self.zone = None  # not ours to delete
            whose = "another run" if run_id else "somebody else"
            raise LaunchError(
                f"the name {self.request.name} is taken in {zone} by {whose}: choose another --name "
                f"(this run is the one in {self.request.workdir})"
            )

    def _end_with_label(self, node: dict[str, Any] | None, queue: dict[str, Any] | None) -> None:
        if expires := _labels(node, queue).get(EXPIRES_LABEL):
            self.budget.end_by(float(expires))


def _labels(node: dict[str, Any] | None, queue: dict[str, Any] | None) -> dict[str, str]:
    if node is not None:
        return node.get("labels", {})
    return {} if queue is None else queue["tpu"]["nodeSpec"][0]["node"].get("labels", {})


def _queue_is_over(queue: dict[str, Any] | None) -> bool:
    return queue is not None and queue["state"]["state"] in ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")
