"""The addresses behind a name."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import ip_address
from queue import SimpleQueue
from threading import Thread

from tandem.core.address import Address, of_one_family

# The name server is there and says that there is no such name, or no address of it.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})

Answer = asyncio.Future[list[str]]


def is_number(address: Address) -> bool:
    """Whether the host is an IP address, which stands for itself."""
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


class NameLookup:
    """Looks one name up, again and again, on a thread of its own.

    Not on the event loop's threads, which hold up its end: a look-up that no name server answers
    takes many seconds and cannot be ended.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._asked: SimpleQueue[Answer | None] = SimpleQueue()
        self._thread: Thread | None = None

    async def look_up(self) -> list[str]:
        """The addresses that the name stands for; none if there is no such name. Raises `OSError`
        if nobody can tell, or there can be no thread."""
        if is_number(self._address):
            return [str(self._address)]
        self._start()
        answer: Answer = asyncio.get_running_loop().create_future()
        self._asked.put(answer)
        return await answer

    def close(self) -> None:
        """Let the thread end, once it has an answer."""
        self._asked.put(None)

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = Thread(target=self._run, name=f"look up {self._address}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(f"no thread to look it up on: {error}") from error
        self._thread = thread

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            found = _addresses(self._address)
            with suppress(RuntimeError):  # the loop has ended
                asked.get_loop().call_soon_threadsafe(_answer, asked, found)


def _answer(answer: Answer, found: list[str] | OSError) -> None:
    if answer.done():
        return
    if isinstance(found, OSError):
        answer.set_exception(found)
    else:
        answer.set_result(found)


def _addresses(address: Address) -> list[str] | OSError:
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        is_answer = isinstance(error, socket.gaierror) and error.errno in NO_SUCH_NAME
        return [] if is_answer else error
    hosts = of_one_family([str(host) for *_, (host, *_) in infos])
    return sorted(str(Address(host, address.port)) for host in hosts)
