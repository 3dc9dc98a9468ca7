"""The ports that servers are given by flags."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import combinations, islice

from tandem.core.address import Address
from tandem.core.errors import ConfigError
from tandem.process.ports import is_free, obstacle

LAST_PORT = 65535
FIRST_FREE_FOR_ALL = 1024


def require_free(host: str, port: int, flag: str) -> None:
    """Raise `ConfigError` that names `flag` if a server cannot listen there."""
    _require_port(port, flag)
    if found := obstacle(host, port):
        why = privilege(port, found) or "`tandem doctor` says what has it"
        raise ConfigError(
            f"cannot listen on {Address(host, port)} ({found.strerror}): write another {flag};"
            f" {why}"
        )


def privilege(port: int, found: OSError) -> str:
    """That its number is why a server cannot listen there; "" if that is not so."""
    if found.errno == errno.EACCES and port < FIRST_FREE_FOR_ALL:
        return f"ports below {FIRST_FREE_FOR_ALL} are for privileged processes"
    return ""


def require_different(ports: Mapping[str, int]) -> None:
    """Raise `ConfigError` that names two flags if they name one port."""
    for (flag, port), (other, same) in combinations(ports.items(), 2):
        if port == same:
            raise ConfigError(f"{flag} and {other} are both {port}: they are of two servers")


def free_ports(host: str, base: int, count: int, taken: set[int]) -> list[int]:
    """The first `count` free ports from `base` on that are not `taken`. Raises `ConfigError`."""
    return _first(count, _free(host, base, taken), base)


@contextmanager
def claimed_port(host: str, port: int, flag: str) -> Iterator[None]:
    """A port that is free, as `require_free` has it, and that `claimed_ports` claims likewise."""
    require_free(host, port, flag)
    with ExitStack() as claims:
        if not _claim(host, port, claims):
            raise ConfigError(
                f"cannot listen on {Address(host, port)} (another tandem up does, or will):"
                f" write another {flag}"
            )
        yield


@contextmanager
def claimed_ports(host: str, base: int, count: int, taken: set[int]) -> Iterator[list[int]]:
    """The same, but within the block no other process is given them by this, on Linux. What listens
    there does so only seconds after they were found free, and not while it is started again."""
    _require_port(base, "--port-base")
    with ExitStack() as claims:
        mine = (port for port in _free(host, base, taken) if _claim(host, port, claims))
        yield _first(count, mine, base)


def _require_port(port: int, flag: str) -> None:
    if not 1 <= port <= LAST_PORT:
        raise ConfigError(f"{flag} {port} is no port: write 1 to {LAST_PORT}")


def _free(host: str, base: int, taken: set[int]) -> Iterator[int]:
    ports = range(base, LAST_PORT + 1)
    return (port for port in ports if port not in taken and is_free(host, port))


def _first(count: int, ports: Iterator[int], base: int) -> list[int]:
    found = list(islice(ports, count))
    if len(found) < count:
        raise ConfigError(f"there are no {count} free ports from --port-base {base} on")
    return found


def _claim(host: str, port: int, claims: ExitStack) -> bool:
    # By a name that is known wherever the port is, in the network's namespace, and that ends with
    # its process. The port itself would have to be given back before its server can take it.
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0tandem-port-{Address(host, port)}")
    except OSError as error:
        claim.close()
        # What else it may be: such names are Linux's.
        return error.errno != errno.EADDRINUSE
    claims.enter_context(claim)
    return True
