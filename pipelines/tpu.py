"""The jobs `vdm tpu run|up|status|logs|stop|down|list|reap`: TPU slices from the shell. Imports no jax."""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TextIO

import configs
from pipelines.launch.crew import Crew, WorkerState
from pipelines.launch.errors import CallError, LaunchError
from pipelines.launch.gcloud import Gcloud
from pipelines.launch.job import EXIT_STOPPED, Job
from pipelines.launch.remote import GcloudRemote
from pipelines.launch.signals import as_interrupts
from pipelines.launch.tpu_api import Found, TpuApi
from pipelines.launch.tpu_pod import TpuPod, make_pod
from pipelines.launch.tpu_request import TpuRequest, choose_provisioning
from pipelines.launch.watch import Patience
from vdm_lib.errors import ConfigError


@dataclass(frozen=True)
class TpuRunResult:
    """What `vdm tpu run` came to.

    Attributes:
        name, accelerator, workdir: as asked for.
        stopped: it ended before the last step with its state saved; the same command goes on from it.
        attempts, slices, restarts, failures: what it went through.
        hours: hours that slices were held.
        usd: their price by the price file, no quote; None if it has none.
        workers: the last state of each worker.
    """

    name: str
    accelerator: str
    workdir: str
    stopped: bool
    attempts: int
    slices: int
    restarts: int
    failures: int
    hours: float
    usd: float | None
    workers: tuple[WorkerState, ...]

    def __str__(self) -> str:
        """Return how it ended, where the run is, and what it took."""
        how = "stopped with the state saved; the same command goes on from it" if self.stopped else "done"
        price = "" if self.usd is None else f", about ${self.usd:,.2f} by the price file"
        return (
            f"{self.name}: {how}. The run is in {self.workdir}: {self.attempts} starts on {self.slices} slices of "
            f"{self.accelerator}, {self.hours:.2f} hours{price}"
        )


@dataclass(frozen=True)
class TpuList:
    """Slices, and for one of them the program on its workers."""

    slices: tuple[Found, ...]
    workers: tuple[WorkerState, ...] = ()

    def __str__(self) -> str:
        """Return one line for each slice and worker."""
        lines = [
            f"{each.name}  {each.zone}  {each.accelerator}  {each.state}"
            + ("  (left over: vdm tpu reap deletes it)" if each.is_leak else "")
            for each in self.slices
        ]
        lines += [f"  {worker}" for worker in self.workers]
        return "\n".join(lines) or "no slices of this project"


def run(args: argparse.Namespace) -> Any:
    """Do one action and return its result, None if it has printed all there is to say.

    Raises:
      ConfigError: something that cannot be asked for.
      LaunchError: it could not be done.
    """
    if args.action in ("run", "up"):
        with as_interrupts():
            return _launch(args)
    gcloud = Gcloud()
    api = TpuApi(gcloud, args.project, _say, poll_s=5.0)
    api.check_login()
    if args.action == "list":
        return TpuList(tuple(api.find_all()))
    if args.action == "reap":
        return _reap(api, args.all, args.dry_run)
    found = _find(api, args.name, args.zone)
    crew = Crew(GcloudRemote(gcloud, found.name, api.place(found.zone), found.num_workers), found.run_id)
    if args.action == "down":
        if not args.now and found.state == "READY":
            crew.stop(args.grace, 2.0)
        api.delete(found.name, found.zone)
        return TpuList((replace(found, state="deleted"),))
    if found.state != "READY":
        return TpuList((found,))
    if args.action == "logs":
        return _logs(crew, args.worker, args.follow)
    states = crew.stop(args.grace, 2.0) if args.action == "stop" else crew.look()
    return TpuList((found,), tuple(replace(state, log="") for state in states))


def train_job(config: str, overrides: list[str], data: str, workdir: str) -> Job:
    """Return the job `vdm train` as a worker runs it."""
    words = ("train", config, *overrides, "--data", data, "--workdir", workdir)
    return Job((sys.executable, "-m", "pipelines.command", *words), workdir=workdir)


def _launch(args: argparse.Namespace) -> Any:
    request = _request(args)
    if args.action == "run":
        config = configs.load(args.config, configs.parse_overrides(args.overrides))
        devices = request.slice.num_devices
        if config.train.batch_size % devices:
            raise ConfigError(
                f"train.batch_size={config.train.batch_size} does not divide over the {devices} devices of "
                f"{request.accelerator}: use a multiple of {devices}"
            )
        request.check_place(args.data, "the data directory (--data)")
    pod = make_pod(
        request, max_hours=args.max_hours, max_cost_usd=args.max_cost, keep=args.action == "up" or args.keep,
        dry_run=print if args.dry_run else None, say=(lambda _: None) if args.dry_run else _say,
        patience=None if args.dry_run else Patience(poll_s=args.poll),
    )  # fmt: skip
    if args.dry_run:
        _say("nothing is called or built; HASH stands for the hash of wheel and lock, which a real run makes first")
    if args.action == "up":
        pod.bring_up()
        return None if args.dry_run else TpuList(tuple(pod.lease.api.find_all(pod.lease.zone or "-")))
    job = train_job(args.config, args.overrides, args.data, args.workdir)
    show: Callable[[str], None] = (lambda line: _print(line, sys.stderr)) if args.json else _print
    try:
        code = pod.run(job, show)
    except KeyboardInterrupt:
        if not pod.workers or any(state.exit_code not in (0, EXIT_STOPPED) for state in pod.workers):
            raise
        code = EXIT_STOPPED
    if args.dry_run:
        return None
    if code not in (0, EXIT_STOPPED):
        raise LaunchError(f"the program failed with exit code {code} on {request.name}; its last lines are above")
    return _result(pod, stopped=code == EXIT_STOPPED)


def _request(args: argparse.Namespace) -> TpuRequest:
    labels = dict(each.partition("=")[::2] for each in args.label)
    zones = tuple(zone.strip() for zone in args.zones.split(",") if zone.strip())
    request = TpuRequest(
        name=args.name or "vdm", accelerator=args.accelerator, zones=zones, workdir=args.workdir,
        project=args.project, provisioning=choose_provisioning(args.spot, args.reserved), queued=not args.direct,
        wait_hours=args.wait, runtime_version=args.runtime_version, network=args.network,
        subnetwork=args.subnetwork, service_account=args.service_account, internal_ips=args.internal_ips,
        shared_dir=args.shared_dir, labels=labels,
    )  # fmt: skip
    if args.name is None:
        # Without the config: `up` does not know it, and both must mean the same slice.
        return replace(request, name=f"vdm-{request.run_id}")
    return request


def _result(pod: TpuPod, stopped: bool) -> TpuRunResult:
    counts, request, budget = pod.counts, pod.lease.request, pod.lease.budget
    return TpuRunResult(
        name=request.name, accelerator=request.accelerator, workdir=request.workdir, stopped=stopped,
        attempts=counts.attempts, slices=counts.slices, restarts=counts.restarts, failures=counts.failures,
        hours=budget.hours, usd=budget.usd, workers=tuple(replace(state, log="") for state in pod.workers),
    )  # fmt: skip


def _find(api: TpuApi, name: str, zone: str) -> Found:
    found = [each for each in api.find_all(zone) if each.name == name]
    if len(found) != 1:
        places = ", ".join(each.zone for each in found)
        problem = f"is in {places}: give --zone" if found else "is no slice that this project made: see `vdm tpu list`"
        raise LaunchError(f"{name} {problem}")
    return found[0]


def _logs(crew: Crew, worker: int, follow: bool) -> None:
    if worker >= crew.remote.num_workers:
        raise ConfigError(f"--worker {worker}: there are {crew.remote.num_workers}, counted from 0")
    state = crew.log(worker)
    if state.attempt is None:
        raise LaunchError(f"nothing was started on worker {worker}")
    print(state.log, end="", flush=True)
    while follow and state.state in ("running", "unknown"):
        time.sleep(2.0)
        try:
            state = crew.log(worker, state.offset)
        except CallError as error:
            _say(str(error))
            continue
        print(state.log, end="", flush=True)


def _reap(api: TpuApi, everything: bool, dry_run: bool) -> TpuList:
    leaks = [each for each in api.find_all() if everything or each.is_leak]
    if not dry_run:
        for each in leaks:
            _say(f"deleting {each.name} in {each.zone} ({each.state})")
            api.delete(each.name, each.zone)
    return TpuList(tuple(replace(each, state=each.state if dry_run else "deleted", expires=None) for each in leaks))


def _say(line: str) -> None:
    _print(f"vdm tpu: {line}", sys.stderr)


def _print(line: str, stream: TextIO | None = None) -> None:
    # Whoever reads may have been killed, such as a flow: the slice must be given back all the same.
    with suppress(BrokenPipeError):
        print(line, file=stream or sys.stdout, flush=True)
