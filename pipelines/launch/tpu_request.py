"""What a TPU slice is asked for as, checked before anything is created."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.planning import accelerators
from pipelines.planning.accelerators import Accelerator
from vdm_lib.errors import ConfigError

RUN_LABEL, EXPIRES_LABEL = "vdm-run", "vdm-expires"
"""Labels of what this project creates: the run it is for, and when (seconds since 1970) it must be gone."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,59}[a-z0-9])?")
_ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


@dataclass(frozen=True, kw_only=True)
class TpuRequest:
    """One slice for one run.

    Attributes:
        name: of the TPU VM and of its queued resource.
        accelerator: accelerator type, such as v3-8.
        zones: where to ask, in this order.
        workdir: the run directory; the run is known by it, so that a second launch for it takes over the first's VM.
        project: Google Cloud project; None is gcloud's own.
        provisioning: on-demand; spot: cheaper, and may be taken away; reserved: from a reservation.
        queued: wait in the queue for capacity instead of asking once.
        wait_hours: how long to wait for capacity in all zones together.
        runtime_version: image of the VMs; None is the one of the accelerator table.
        network, subnetwork, service_account: None are the project's own.
        internal_ips: give the VMs no external address, and reach them by the internal ones.
        shared_dir: directory that every worker mounts, such as Filestore; run and data may be below it, else on gs://.
        labels: more labels.
    """

    name: str
    accelerator: str
    zones: tuple[str, ...]
    workdir: str
    project: str | None = None
    provisioning: Literal["on-demand", "spot", "reserved"] = "on-demand"
    queued: bool = True
    wait_hours: float = 2.0
    runtime_version: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    internal_ips: bool = False
    shared_dir: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for what Google Cloud would refuse, or would make and lose."""
        accelerators.find(self.accelerator)
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"TPU name {self.name!r}: small letters, digits and dashes, first a letter, at most 61")
        if not self.zones:
            raise ConfigError("no zone: give --zones, such as --zones us-central1-a,europe-west4-b")
        for zone in self.zones:
            if not _ZONE.fullmatch(zone):
                raise ConfigError(f"{zone!r} is no zone: zones look like us-central1-a")
        for key, value in self.labels.items():
            if not _LABEL.fullmatch(key) or not _LABEL.fullmatch(value) or key in (RUN_LABEL, EXPIRES_LABEL):
                raise ConfigError(f"label {key}={value}: small letters, digits, - and _, at most 63, and not vdm-*")
        if self.wait_hours <= 0:
            raise ConfigError(f"the time to wait for capacity must be positive, got {self.wait_hours} hours")
        self.check_place(self.workdir, "the run directory (--workdir)")

    def check_place(self, path: str, what: str) -> None:
        """Raise ConfigError if a path is not one that every worker sees and that outlives the VMs."""
        shared = self.shared_dir is not None and f"{path}/".startswith(f"{self.shared_dir.rstrip('/')}/")
        if not path.startswith("gs://") and not shared:
            hosts = "host" if self.slice.num_hosts == 1 else f"{self.slice.num_hosts} hosts"
            raise ConfigError(
                f"{what} is {path!r}, on the disks of the {hosts} of {self.accelerator}, "
                "which go with it: give a gs:// path, or --shared-dir with a directory that every worker mounts"
            )

    @property
    def slice(self) -> Accelerator:
        """The slice in the accelerator table."""
        return accelerators.find(self.accelerator)

    @property
    def run_id(self) -> str:
        """Mark of the run: the same for every launch with this run directory."""
        return hashlib.sha256(self.workdir.rstrip("/").encode()).hexdigest()[:12]


def choose_provisioning(spot: bool, reserved: bool) -> Literal["on-demand", "spot", "reserved"]:
    """Return how the slice is paid for; raises ConfigError if asked for both."""
    if spot and reserved:
        raise ConfigError("--spot and --reserved exclude each other: a reservation is not taken away")
    return "spot" if spot else "reserved" if reserved else "on-demand"
