"""The addresses behind a name."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from threading import Thread

from tandem.core.address import Address, of_one_family

# The name server is there and says that there is no such name, or no address of it.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


async def look_up(address: Address) -> list[str]:
    """The addresses that `address` stands for; none if there is no such name. Raises `OSError` if
    nobody can tell."""
    found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    # Not the event loop's own threads, which hold up its end: a look-up that no name server answers
    # takes many seconds and cannot be ended.
    Thread(target=_look_up, args=(address, found), daemon=True).start()
    return await found


def _look_up(address: Address, found: asyncio.Future[list[str]]) -> None:
    answer = _addresses(address)
    with suppress(RuntimeError):  # the loop has ended
        found.get_loop().call_soon_threadsafe(_answer, found, answer)


def _answer(found: asyncio.Future[list[str]], answer: list[str] | OSError) -> None:
    if found.done():
        return
    if isinstance(answer, OSError):
        found.set_exception(answer)
    else:
        found.set_result(answer)


def _addresses(address: Address) -> list[str] | OSError:
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        is_answer = isinstance(error, socket.gaierror) and error.errno in NO_SUCH_NAME
        return [] if is_answer else error
    hosts = of_one_family([str(host) for *_, (host, *_) in infos])
    return sorted(str(Address(host, address.port)) for host in hosts)
