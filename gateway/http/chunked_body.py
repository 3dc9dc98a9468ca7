"""The body of a response that is written piece by piece, as HTTP/1.1 has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.http.reading import CountingTransport


class ChunkedBody:
    """A `ResponseBody` in HTTP's chunks: without a coroutine of each layer of the app, and without
    a turn of the event loop."""

    def __init__(self, cycle: RequestResponseCycle, transport: CountingTransport) -> None:
        """`transport` is the response's."""
        self.on_writable: Callable[[], None] | None = None
        self._cycle = cycle
        self._transport = transport

    @property
    def is_writable(self) -> bool:
        return not self._cycle.flow.write_paused

    def write(self, piece: bytes) -> None:
        if not self._cycle.disconnected:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def together(self) -> AbstractContextManager[None]:
        return self._transport.together()
