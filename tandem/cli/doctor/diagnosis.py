"""From what a machine has to whether `tandem up` would work on it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tandem.cli.doctor.findings import Finding, Level, problem
from tandem.cli.doctor.hardware import (
    judge_dtype,
    judge_gpus,
    judge_kernels,
    judge_python,
    judge_torch,
)
from tandem.cli.doctor.machine import Machine, Model
from tandem.cli.doctor.placement import judge_cores, judge_memory
from tandem.cli.doctor.surroundings import (
    judge_cache,
    judge_docker,
    judge_flags,
    judge_logs,
    judge_model,
    judge_open_files,
    judge_ports,
)
from tandem.cli.fleet import Fleet, FleetSettings, plan_fleet, spread_device
from tandem.core.address import Address, local_host
from tandem.core.device import CpuDevice, Device, MockDevice, format_cores, parse_device
from tandem.core.errors import ConfigError
from tandem.engine.fake.profiles import parse_profile


@dataclass(frozen=True)
class Diagnosis:
    """`fleet`: what would be started, None if it cannot even be planned."""

    findings: tuple[Finding, ...]
    fleet: Fleet | None

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.level is Level.PROBLEM)

    @property
    def would_start(self) -> bool:
        return not self.problems


def diagnose(machine: Machine, settings: FleetSettings) -> Diagnosis:
    """Judge everything, so that one look names all that must be mended."""
    fleet: Fleet | None = None
    devices: Sequence[Device] = ()
    findings = [judge_python(machine.python)]
    try:
        devices = _spread(settings, machine)
        fleet = plan_fleet(settings, _ports(machine, settings), machine.cpu.cores)
    except ConfigError as error:
        findings.append(problem("device", error.message))
    if fleet:
        findings += _judge_device(machine, settings, fleet, devices)
    findings += _judge_rest(machine, settings)
    return Diagnosis(tuple(findings), fleet)


def verdict(diagnosis: Diagnosis, settings: FleetSettings) -> str:
    """What `tandem up` would do, in a sentence."""
    if not diagnosis.would_start or diagnosis.fleet is None:
        stops = " and ".join(dict.fromkeys(each.subject for each in diagnosis.problems))
        return f"tandem up would not start: see {stops}"
    workers = ", ".join(
        f"{worker.name} on :{worker.port}"
        + (f" (core {format_cores(worker.cores)})" if worker.cores else "")
        for worker in diagnosis.fleet.workers
    )
    address = Address(local_host(settings.host), settings.http_port)
    return f"tandem up would start {workers}, and serve on http://{address}/v1"


def _spread(settings: FleetSettings, machine: Machine) -> list[Device]:
    """Each worker's device. Raises `ConfigError`."""
    device = parse_device(settings.device)
    if isinstance(device, MockDevice):
        parse_profile(device.profile)
    return spread_device(settings.device, settings.topology.num_workers, machine.cpu.cores)


def _ports(machine: Machine, settings: FleetSettings) -> Sequence[int]:
    """The workers'; some that stand for them where there are too few, which is a finding of its
    own."""
    num_workers = settings.topology.num_workers
    if len(machine.worker_ports) == num_workers:
        return machine.worker_ports
    return range(num_workers)


def _judge_device(
    machine: Machine, settings: FleetSettings, fleet: Fleet, devices: Sequence[Device]
) -> Iterator[Finding]:
    wanted_dtype = str(settings.worker_options.get("dtype") or "auto")
    yield judge_torch(machine.torch, devices)
    yield judge_gpus(machine, devices)
    yield judge_cores(machine.cpu, fleet)
    if dtype := judge_dtype(machine.torch, devices[0], wanted_dtype):
        yield dtype
    if kernels := judge_kernels(machine, devices[0]):
        yield kernels
    if isinstance(machine.model, Model) and (
        machine.model.checkpoint_bytes or isinstance(devices[0], MockDevice)
    ):
        yield from judge_memory(machine, machine.model, settings, devices)


def _judge_rest(machine: Machine, settings: FleetSettings) -> Iterator[Finding]:
    try:
        device = parse_device(settings.device)
    except ConfigError:
        device = CpuDevice()
    yield from judge_flags(machine.refusals)
    yield judge_model(machine, settings.model, device)
    yield judge_cache(machine)
    yield judge_logs(machine.logs)
    yield from judge_ports(machine.ports, machine.worker_ports, settings.topology.num_workers)
    yield judge_open_files(machine.open_files)
    yield judge_docker(machine.docker)
