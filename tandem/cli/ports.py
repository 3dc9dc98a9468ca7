"""Ports of this machine."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from itertools import combinations

from tandem.core.address import Address
from tandem.core.errors import ConfigError

LAST_PORT = 65535


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there. Raises `ConfigError` if the host is not this one."""
    return _obstacle(host, port) is None


def _obstacle(host: str, port: int) -> OSError | None:
    """Why a server cannot listen there, if it cannot. Raises `ConfigError` if the host is not this
    one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Connections of a server that has just ended do not hinder the next one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(
                    f"--host {host} is no address of this machine: write 127.0.0.1, another of its"
                    " own, or 0.0.0.0 for all of these",
                    param="host",
                ) from None
            return error
    return None


def require_free(host: str, port: int, flag: str) -> None:
    """Raise `ConfigError` that names `flag` if a server cannot listen there."""
    if not 1 <= port <= LAST_PORT:
        raise ConfigError(f"{flag} {port} is no port: write 1 to {LAST_PORT}")
    if obstacle := _obstacle(host, port):
        raise ConfigError(
            f"cannot listen on {Address(host, port)} ({obstacle.strerror}): write another {flag};"
            " `tandem doctor` says what has it"
        )


def require_different(ports: Mapping[str, int]) -> None:
    """Raise `ConfigError` that names two flags if they name one port."""
    for (flag, port), (other, same) in combinations(ports.items(), 2):
        if port == same:
            raise ConfigError(f"{flag} and {other} are both {port}: they are of two servers")


def free_ports(host: str, base: int, count: int, taken: set[int]) -> list[int]:
    """The first `count` free ports from `base` on that are not `taken`. Raises `ConfigError`."""
    ports: list[int] = []
    for port in range(max(1, base), LAST_PORT + 1):
        if len(ports) == count:
            break
        if port not in taken and is_free(host, port):
            ports.append(port)
    if len(ports) < count:
        raise ConfigError(f"there are no {count} free ports from --port-base {base} on")
    return ports
