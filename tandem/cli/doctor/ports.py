"""Looks at the ports that `tandem up` would listen on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tandem.cli.doctor.machine import Port
from tandem.cli.fleet import WORKER_HOST, FleetSettings
from tandem.cli.ports import (
    LAST_PORT,
    claimed_ports,
    free_ports,
    privilege,
    require_different,
)
from tandem.core.errors import ConfigError
from tandem.process.ports import obstacle

MAX_COMMAND_CHARS = 60


def probe_ports(settings: FleetSettings) -> Mapping[str, Port]:
    """The gateway's two, by the flags that set them."""
    wanted = {"--http-port": settings.http_port, "--grpc-port": settings.grpc_port}
    taken = {*wanted.values()}
    ports = {flag: _port(settings.host, port, taken) for flag, port in wanted.items()}
    try:
        require_different(wanted)
    except ConfigError as error:
        ports["--grpc-port"] = Port(settings.grpc_port, is_free=False, error=error.message)
    return ports


def probe_worker_ports(settings: FleetSettings) -> tuple[int, ...]:
    """Those that the workers would take; empty if there are too few."""
    taken = {settings.http_port, settings.grpc_port}
    try:
        count = settings.topology.num_workers
        with claimed_ports(WORKER_HOST, settings.port_base, count, taken) as ports:
            return tuple(ports)
    except ConfigError:
        return ()


def _port(host: str, number: int, taken: set[int]) -> Port:
    if not 1 <= number <= LAST_PORT:
        return Port(number, is_free=False, error=f"{number} is no port")
    try:
        found = obstacle(host, number)
        if not found:
            return Port(number, is_free=True)
        if why := privilege(number, found):
            return Port(number, is_free=False, error=f"{number} cannot be used: {why}")
        (next_free,) = free_ports(host, number + 1, 1, taken)
    except ConfigError as error:
        is_elsewhere = error.param == "host"
        return Port(number, is_free=False, error=error.message, is_elsewhere=is_elsewhere)
    return Port(number, is_free=False, owner=_owner(number), next_free=next_free)


def program_of(command: Sequence[str]) -> list[str]:
    """The beginning of a command line that says which program it is, of Python's the module or the
    script too. Behind it keys may stand."""
    name, *rest = command or [""]
    if not Path(name).name.startswith("python"):
        return [name]
    for index, word in enumerate(rest):
        if word == "-m":
            return [name, *rest[: index + 2]]
        if not word.startswith("-"):
            return [name, *rest[: index + 1]]
        if word.startswith("-c"):
            break
    return [name]


def _owner(port: int) -> str:
    """`python -m http.server (pid 123)`; empty if the system does not tell us."""
    try:
        listening = psutil.net_connections("tcp")
        pid = next(
            each.pid
            for each in listening
            if each.pid
            and each.status == psutil.CONN_LISTEN
            and each.laddr
            and each.laddr.port == port
        )
        command = shlex.join(program_of(psutil.Process(pid).cmdline()))
    except (psutil.Error, StopIteration):
        return ""
    return f"{command[:MAX_COMMAND_CHARS]} (pid {pid})"
