"""What `tandem up` starts: pure, from settings, ports and cores to command lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tandem.core.device import CpuDevice, CudaDevice, Device, format_cores, parse_device
from tandem.core.errors import ConfigError
from tandem.core.topology import Topology
from tandem.process.cores import cores_of, split_cores
from tandem.wire.metadata import API_KEY_VARIABLE
from tandem.worker.pool_size import GPU_MEMORY_SHARE

WORKER_HOST = "127.0.0.1"
# Whatever else runs, the gateway first of all, had better take prefill workers' cores: a batch is
# hundreds of milliseconds, and for a decode step all streams wait. Not more: a strange process that
# computes all the time leaves prefill a quarter of a core so.
PREFILL_NICENESS = 5
# -P: a folder of the service's name where the user happens to be is not the service.
PYTHON = (sys.executable, "-P", "-m")

Options = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class FleetSettings:
    """What the user asked for. Options that are None are left to the services' defaults;
    `worker_options` are those of both roles."""

    topology: Topology
    model: str
    device: str
    host: str
    http_port: int
    grpc_port: int
    port_base: int
    api_key: str | None = field(default=None, repr=False)
    worker_options: Options = field(default_factory=dict)
    decode_options: Options = field(default_factory=dict)
    gateway_options: Options = field(default_factory=dict)

    @property
    def needs_key(self) -> bool:
        """Whether the gateway will ask for API keys."""
        return self.api_key is not None or self.gateway_options.get("api-keys") is not None

    @property
    def num_weight_sharers(self) -> int:
        """Workers that map the same weights, where there are kernels that take these."""
        return self.topology.num_workers if self.device.startswith("cpu") else 1


@dataclass(frozen=True)
class Service:
    """One process. `cores` empty: not bound to any. `niceness`: see nice(2). `environment` is added
    to this process's."""

    name: str
    command: tuple[str, ...]
    port: int
    cores: tuple[int, ...] = ()
    niceness: int = 0
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Fleet:
    """All processes. The workers start, and end, beside the gateway."""

    workers: tuple[Service, ...]
    gateway: Service

    @property
    def services(self) -> tuple[Service, ...]:
        return (*self.workers, self.gateway)

    def mates(self, service: Service) -> list[Service]:
        """The other workers of a service's role."""
        return [
            worker
            for worker in self.workers
            if worker is not service and _role(worker) == _role(service)
        ]

    def core_line(self) -> str:
        """How the cores are shared out; empty if they are not."""
        bound = [worker for worker in self.workers if worker.cores]
        if not bound:
            return ""
        line = ", ".join(f"{worker.name} on {format_cores(worker.cores)}" for worker in bound)
        num_cores = len({core for worker in bound for core in worker.cores})
        if num_cores < len(bound):
            return f"{line}: too few for {len(bound)} workers, which share them"
        return line


def _role(service: Service) -> str:
    return service.name.partition("-")[0]


def plan_fleet(settings: FleetSettings, ports: Sequence[int], cores: Sequence[int]) -> Fleet:
    """The fleet, whose workers listen on `ports`, prefill first. `cores` are those that may be
    used. Raises `ConfigError`."""
    num_prefill, num_workers = settings.topology.num_prefill, settings.topology.num_workers
    roles = ["prefill"] * num_prefill + ["decode"] * settings.topology.num_decode
    devices = spread_device(settings.device, num_workers, cores)
    workers = [
        _worker(settings, role, index if role == "prefill" else index - num_prefill, device, port)
        for index, (role, device, port) in enumerate(zip(roles, devices, ports, strict=True))
    ]
    decode_cores = {core for worker in workers[num_prefill:] for core in worker.cores}
    for index, worker in enumerate(workers[:num_prefill]):
        # On a core of both, prefill would be computed only while nothing is decoded.
        if worker.cores and not decode_cores.intersection(worker.cores):
            workers[index] = replace(worker, niceness=PREFILL_NICENESS)
    return Fleet(tuple(workers), _gateway(settings, workers[:num_prefill], workers[num_prefill:]))


def spread_device(text: str, num_workers: int, cores: Sequence[int]) -> list[Device]:
    """Each worker's device: its own cores, its own GPU for `cuda`. Raises `ConfigError`."""
    match parse_device(text):
        case CpuDevice() as cpu:
            if missing := set(cpu.cores) - set(cores):
                raise ConfigError(
                    f"device {text}: cores {format_cores(tuple(sorted(missing)))} cannot be used"
                    f" here, but {format_cores(tuple(sorted(cores)))} can",
                    param="device",
                )
            shares = split_cores(cores_of(cpu, cores), num_workers)
            return [CpuDevice(share) for share in shares]
        case CudaDevice() if text == "cuda":
            return [CudaDevice(index) for index in range(num_workers)]
        case device:
            return [device] * num_workers


def memory_share(settings: FleetSettings) -> float | None:
    """The share of its device that each worker takes; None leaves it to the worker."""
    wanted = settings.worker_options.get("memory-share")
    if wanted is None and settings.device.startswith("cuda:"):
        # All on one GPU: each takes its part of what one alone would take.
        return round(GPU_MEMORY_SHARE / settings.topology.num_workers, 3)
    return None if wanted is None else float(wanted)


def _worker(settings: FleetSettings, role: str, index: int, device: Device, port: int) -> Service:
    name = f"{role}-{index}"
    options = {
        "host": WORKER_HOST,
        "port": port,
        "worker-id": name,
        "device": str(device),
        "model": settings.model,
        **settings.worker_options,
        **(settings.decode_options if role == "decode" else {}),
        "memory-share": memory_share(settings),
        "weight-sharers": settings.num_weight_sharers,
    }
    cores = device.cores if isinstance(device, CpuDevice) else ()
    return Service(name, _command(f"{role}_service", options), port, cores)


def _gateway(
    settings: FleetSettings, prefill: Sequence[Service], decode: Sequence[Service]
) -> Service:
    options = {
        "host": settings.host,
        "http-port": settings.http_port,
        "grpc-port": settings.grpc_port,
        "prefill": _addresses(prefill),
        "decode": _addresses(decode),
        "model": settings.model,
        **settings.gateway_options,
    }
    # Not on the command line, which all users of the machine can read.
    secrets = {} if settings.api_key is None else {API_KEY_VARIABLE: settings.api_key}
    command = _command("gateway", options)
    return Service("gateway", command, settings.http_port, environment=secrets)


def _command(module: str, options: Options) -> tuple[str, ...]:
    command = [*PYTHON, module]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    return tuple(command)


def _addresses(workers: Sequence[Service]) -> str:
    return ",".join(f"{WORKER_HOST}:{worker.port}" for worker in workers)
