"""Where a training runs: what the flow's parameters mean, and how what they have left there is ended."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger

from flows.job import run_key, vdm
from flows.redaction import redact
from pipelines.launch.job import Job, Launcher
from pipelines.launch.local import SAVING_S, LocalProcess, stop_marked
from pipelines.launch.ssh_hosts import SshHosts
from pipelines.launch.tpu_request import TpuRequest, choose_provisioning
from pipelines.launch.watch import Patience
from vdm_lib.config import Config
from vdm_lib.errors import ConfigError

Kind = Literal["local", "ssh", "tpu"]

# A slice is given back only after the program has saved its state and Google has deleted it.
_TPU_GRACE_S = 1800.0
# Of the 30 s that Prefect gives a cancelled run; the hook after it has more.
_SSH_GRACE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class TpuSlice:
    """A TPU slice as `vdm tpu run` is asked for it.

    Attributes:
        accelerator: such as v3-8.
        zones: where to ask, in this order, with commas.
        project: Google Cloud project; gcloud's own by default.
        spot: cheaper, and may be taken away.
        reserved: from a reservation.
        wait_hours: for capacity.
        max_hours: hold slices at most this long, then stop with the state saved.
        max_cost_usd: the same by pipelines/planning/accelerator_prices.toml.
        network, subnetwork, service_account: the project's own by default.
        internal_ips: no external addresses.
        shared_dir: a disk that every worker mounts; run and data may be below it instead of on gs://.
    """

    accelerator: str
    zones: str
    project: str | None = None
    spot: bool = False
    reserved: bool = False
    wait_hours: float = 2.0
    max_hours: float = 24.0
    max_cost_usd: float | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    internal_ips: bool = False
    shared_dir: str | None = None

    def request(self, workdir: str) -> TpuRequest:
        """Return the request for a run directory; raises ConfigError for what Google Cloud would refuse."""
        return TpuRequest(
            name="vdm",
            accelerator=self.accelerator,
            zones=tuple(zone.strip() for zone in self.zones.split(",") if zone.strip()),
            workdir=workdir,
            provisioning=choose_provisioning(self.spot, self.reserved),
            wait_hours=self.wait_hours,
            shared_dir=self.shared_dir,
        )

    def flags(self) -> list[str]:
        """Return the flags of `vdm tpu run`."""
        values = {
            "--accelerator": self.accelerator, "--zones": self.zones, "--project": self.project,
            "--wait": self.wait_hours, "--max-hours": self.max_hours, "--max-cost": self.max_cost_usd,
            "--network": self.network, "--subnetwork": self.subnetwork, "--service-account": self.service_account,
            "--shared-dir": self.shared_dir,
        }  # fmt: skip
        given = [f"{flag}={value}" for flag, value in values.items() if value is not None]
        switches = {"--spot": self.spot, "--reserved": self.reserved, "--internal-ips": self.internal_ips}
        return given + [flag for flag, on in switches.items() if on]


@dataclass(frozen=True, kw_only=True)
class SshPlace:
    """Hosts of one's own.

    Attributes:
        hosts: as ssh takes them, such as me@gpu-1; with several, the first is where they meet.
        python: path of the python on every host that has the project.
        coordinator: HOST:PORT of the first host as the others reach it.
    """

    hosts: list[str]
    python: str = "python3"
    coordinator: str | None = None

    def launcher(self, say: Any, grace_s: float = _SSH_GRACE_S) -> SshHosts:
        """Return what runs a job there; grace_s is from SIGTERM to SIGKILL."""
        patience = Patience(poll_s=2.0, grace_s=grace_s)
        return SshHosts(tuple(self.hosts), self.python, self.coordinator, say=say, patience=patience)


def check_place(
    kind: Kind, tpu: TpuSlice | None, ssh: SshPlace | None, config: Config, data: str, workdir: str
) -> None:
    """Refuse what the launcher would refuse, before anything is started.

    Raises:
      ConfigError: no slice or no hosts are given, or they do not fit the run.
    """
    if kind == "tpu":
        if tpu is None:
            raise ConfigError('launcher=tpu needs a slice: tpu={"accelerator": "v3-8", "zones": "us-central1-a"}')
        request = tpu.request(workdir)
        request.check_place(data, "the data directory (data)")
        devices = request.slice.num_devices
        if config.train.batch_size % devices:
            raise ConfigError(
                f"train.batch_size={config.train.batch_size} does not divide over the {devices} devices of "
                f"{tpu.accelerator}: use a multiple of {devices}"
            )
    if kind == "ssh" and (ssh is None or not ssh.hosts):
        raise ConfigError('launcher=ssh needs hosts: ssh={"hosts": ["me@gpu-1"], "python": "/home/me/vdm/bin/python"}')


def training(
    kind: Kind, tpu: TpuSlice | None, ssh: SshPlace | None, words: list[str], workdir: str, say: Any
) -> tuple[Job, Launcher, bool]:
    """Return a training's job, what runs it, and whether exit code 75 is its last word.

    Args:
      kind: the launcher.
      tpu: the slice, for launcher tpu.
      ssh: the hosts, for launcher ssh.
      words: those of the command line after `vdm train`.
      workdir: run directory.
      say: takes one line about what happens.
    """
    if kind == "tpu":
        assert tpu is not None
        # A process of its own, so that a flow that is killed with -9 still gives the slice back.
        return vdm("tpu", "run", *words, *tpu.flags(), workdir=workdir), LocalProcess(
            key=run_key(), grace_s=_TPU_GRACE_S
        ), True  # fmt: skip
    job = vdm("train", *words, workdir=workdir)
    if kind == "ssh":
        assert ssh is not None
        return job, ssh.launcher(say), False
    return job, LocalProcess(key=run_key()), False


def stop_leftovers(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """Stop what a cancelled or crashed flow run has left, here, on hosts and at Google; a hook of every flow.

    It runs in a process of its own, so only the run is left to find the job by: by its id here, by the run
    directory among its parameters elsewhere. Done twice it does no harm.
    """
    # The run is over, so that its own log takes nothing any more: this is the worker's.
    log = get_logger("vdm")
    given: Mapping[str, Any] = flow_run.parameters or {}
    kind = given.get("launcher", "local")
    stopped = stop_marked(str(flow_run.id), grace_s=_TPU_GRACE_S if kind == "tpu" else SAVING_S)
    if stopped:
        log.warning("stopped %d processes of flow run %s", len(stopped), flow_run.id)
    workdir = given.get("workdir") or f"runs/{given.get('experiment')}"
    if kind == "ssh" and given.get("ssh"):
        for worker in SshPlace(**given["ssh"]).launcher(log.info, SAVING_S).stop(workdir):
            log.warning("%s", worker)
    if kind == "tpu" and given.get("tpu"):
        give_back(TpuSlice(**given["tpu"]), workdir, log)


def give_back(tpu: TpuSlice, workdir: str, log: Any) -> None:
    """Delete the slice of a run directory, if it is there still."""
    name = f"vdm-{tpu.request(workdir).run_id}"
    project = [] if tpu.project is None else [f"--project={tpu.project}"]
    command = [sys.executable, "-m", "pipelines.command", "tpu"]
    listed = subprocess.run([*command, "list", *project], capture_output=True, text=True, check=False)
    if listed.returncode == 0 and name not in listed.stdout:
        return
    done = subprocess.run([*command, "down", name, "--now", *project], capture_output=True, text=True, check=False)
    if done.returncode:
        log.error("%s may still be there, see `vdm tpu list`: %s", name, redact(done.stderr.strip()))
