"""The ports that servers are given by flags."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from tandem.core.address import Address
from tandem.core.errors import ConfigError
from tandem.process.ports import is_free, obstacle

LAST_PORT = 65535


def require_free(host: str, port: int, flag: str) -> None:
    """Raise `ConfigError` that names `flag` if a server cannot listen there."""
    if not 1 <= port <= LAST_PORT:
        raise ConfigError(f"{flag} {port} is no port: write 1 to {LAST_PORT}")
    if found := obstacle(host, port):
        raise ConfigError(
            f"cannot listen on {Address(host, port)} ({found.strerror}): write another {flag};"
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
