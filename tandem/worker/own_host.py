"""This machine's address, as others know it."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from tandem.core.address import of_one_family


def own_host() -> str:
    """The address that this machine's name stands for: in a container, the container's. Empty where
    it has none that other machines could use."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    hosts = [str(address[0]) for *_, address in found]
    usable = [host for host in hosts if _is_usable(host)]
    return next(iter(of_one_family(usable)), "")


def _is_usable(host: str) -> bool:
    # Debian gives a machine's name to the loopback interface; a link-local address needs a scope.
    address = ip_address(host)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)
