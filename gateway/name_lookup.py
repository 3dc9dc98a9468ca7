"""The addresses behind a name."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from gateway.own_thread import OwnThread
from tandem.core.address import Address, of_one_family

# The name server is there and says that there is no such name, or no address of it.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


def is_number(address: Address) -> bool:
    """Whether the host is an IP address, which stands for itself."""
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


class NameLookup:
    """Looks one name up, again and again, on a thread of its own: a look-up that no name server
    answers takes many seconds."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._thread = OwnThread(f"look up {address}")

    async def look_up(self) -> list[str]:
        """The addresses that the name stands for; none if there is no such name. Raises `OSError`
        if nobody can tell, or there can be no thread."""
        if is_number(self._address):
            return [str(self._address)]
        return await self._thread.run(self._addresses)

    def close(self) -> None:
        """Let the thread end, once it has an answer."""
        self._thread.close()

    def _addresses(self) -> list[str]:
        address = self._address
        try:
            infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in NO_SUCH_NAME:
                return []
            raise
        hosts = of_one_family([str(host) for *_, (host, *_) in infos])
        return sorted(str(Address(host, address.port)) for host in hosts)
