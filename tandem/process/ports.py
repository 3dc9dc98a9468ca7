"""Ports of this machine."""

from __future__ import annotations

import errno
import socket

from tandem.core.errors import ConfigError


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there. Raises `ConfigError` if the host is not this one."""
    return obstacle(host, port) is None


def obstacle(host: str, port: int) -> OSError | None:
    """Why a server cannot listen there, if it cannot. Raises `ConfigError` if the host is not this
    one."""
    if not host:
        # Which sockets take for all of this machine's.
        raise _elsewhere("''")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # Connections of a server that has just ended do not hinder the next one.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise _elsewhere(host) from None
        return error
    return None


def _elsewhere(host: str) -> ConfigError:
    return ConfigError(
        f"{host} is no address of this machine: write --host 127.0.0.1, another of its own,"
        " or 0.0.0.0 for all of these",
        param="host",
    )
