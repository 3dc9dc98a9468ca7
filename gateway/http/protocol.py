"""HTTP/1.1 on one connection: uvicorn's protocol, with a bound on all that comes before a body, and
on how long nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from gateway.http.errors import INVALID_REQUEST_TYPE, ErrorAnswer
from gateway.http.limits import HttpLimits
from gateway.http.streaming import RESPONSE_BODY
from gateway.http.turnstile import MAX_WAIT_S, Turnstile
from gateway.lag import Lag
from gateway.refusals import Refusals

MAX_URL_BYTES = 2**13
MAX_HEADERS = 128
# Requests that wait for the answer to one before them.
MAX_PIPELINED = 32
# Connections that are told that there are too many; more are closed without a word.
MAX_TURNED_AWAY = 64
# A header can come in any number of pieces, and only when it is complete is it counted. So what is
# parsed at a time is little.
PIECE_BYTES = 2**14
# A client that takes less of what waits for it, within the time that it has, does not read.
MIN_READ_BYTES = 2**14
# What is read after a refusal, and for how long, only to be dropped: a connection that is closed
# while bytes are coming in is reset, and the client may never read why.
MAX_LINGER_BYTES = 2**27
LINGER_S = 0.5
# Orders to workers (`admin.py`).
ORDERS = b"/admin/"

TOO_LONG_URL = ErrorAnswer(
    414, INVALID_REQUEST_TYPE, f"the URL has more than {MAX_URL_BYTES} bytes", "uri_too_long"
)
TOO_MANY_HEADERS = ErrorAnswer(
    431,
    INVALID_REQUEST_TYPE,
    f"the request has more than {MAX_HEADERS} headers",
    "request_header_fields_too_large",
)
TOO_SLOW = ErrorAnswer(
    408, INVALID_REQUEST_TYPE, "the request did not come in time", "request_timeout"
)
TOO_MANY_CONNECTIONS = ErrorAnswer(
    503, "service_unavailable", "too many connections: try again later", "unavailable"
)
TOO_BUSY = ErrorAnswer(
    503, "service_unavailable", "the gateway has too much to do: try again later", "unavailable"
)
TOO_MANY_PIPELINED = ErrorAnswer(
    400, INVALID_REQUEST_TYPE, "too many pipelined requests", "invalid_request"
)


class ChunkedBody:
    """A `ResponseBody` in HTTP's chunks: without a coroutine of each layer of the app, and without
    a turn of the event loop."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.on_writable: Callable[[], None] | None = None
        self._cycle = cycle

    @property
    def is_writable(self) -> bool:
        return not self._cycle.flow.write_paused

    def write(self, piece: bytes) -> None:
        if not self._cycle.disconnected:
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow, a body that is too slow, and a connection too
    many, in OpenAI's form, and closes the connection. How long a body is, is the routes' matter."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        places: set[asyncio.Protocol],
        turnstile: Turnstile,
        lag: Lag,
        refusals: Refusals,
    ) -> None:
        """`places` are the connections that are served, which all protocols of a server share, as
        they do the turnstile. For want of room are the `refusals`; what is wrong with a request
        itself is none of them."""
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._places = places
        self._turnstile = turnstile
        self._lag = lag
        self._refusals = refusals
        self._num_headers = 0
        self._num_head_bytes = 0
        # Of a header that is not complete.
        self._num_untold_bytes = 0
        self._told = False
        # Between a request's first byte and its last.
        self._is_reading = False
        self._deadline: asyncio.TimerHandle | None = None
        # While some of what is written is not read: until when it has to be, and how much it was.
        self._read_deadline: asyncio.TimerHandle | None = None
        self._num_unread_bytes = 0
        # What was asked for on this connection and is not answered, oldest first.
        self._open: list[RequestResponseCycle] = []
        self._refused = False
        self._num_dropped_bytes = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self._places) < self._limits.max_connections:
            self._places.add(self)
            self._arm(self._limits.header_timeout_s)
            return
        self._count(TOO_MANY_CONNECTIONS)
        if len(self.connections) - len(self._places) <= MAX_TURNED_AWAY:
            self._refuse(TOO_MANY_CONNECTIONS)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.discard(self)
        self._disarm()
        self._disarm_reading()
        self._give_up()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm_reading()
        self._watch_rest()
        for cycle in self._unanswered():
            body = cycle.scope["state"][RESPONSE_BODY]
            if body.on_writable:
                body.on_writable()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if self._refused:
                self._drop(len(data) - start)
                return
            self._parse(data[start : start + PIECE_BYTES])
        if self._deadline is None and not self._unanswered():
            # Nothing that begins a request, like empty lines: as slow as a request would be.
            self._arm(self._limits.header_timeout_s)

    def _parse(self, piece: bytes) -> None:
        self._told = False
        super().data_received(piece)
        self._num_untold_bytes = 0 if self._told else self._num_untold_bytes + len(piece)
        self._check_head()

    # What the parser tells of

    def on_message_begin(self) -> None:
        self._num_headers = self._num_head_bytes = 0
        if self._takes():
            self._is_reading = True
            self._arm(self._limits.header_timeout_s)
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._takes(len(url)):
            super().on_url(url)
            if len(self.url) > MAX_URL_BYTES:
                self._refuse(TOO_LONG_URL)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        if self._takes(len(name) + len(value)):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(TOO_MANY_PIPELINED)
        elif _is_work(self.parser.get_method(), self.url) and self._is_overloaded():
            self._count(TOO_BUSY)
            self._refuse(self._too_busy())
        if self._takes():
            self._arm(self._limits.body_timeout_s)
            super().on_headers_complete()
            self.scope["state"][RESPONSE_BODY] = ChunkedBody(self.cycle)
            self._open = [*self._unanswered(), self.cycle]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        start = partial(super()._start_asgi_task, cycle, app)
        if _is_work(cycle.scope["method"].encode(), cycle.scope["raw_path"]):
            self._turnstile.enter(start)
        else:
            start()

    def on_body(self, body: bytes) -> None:
        if self._takes():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._takes():
            self._is_reading = False
            self._disarm()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_rest()

    def _takes(self, num_head_bytes: int = 0) -> bool:
        """Count what the parser has come upon; whether it is still wanted."""
        self._told = True
        self._num_head_bytes += num_head_bytes
        self._check_head()
        return not self._refused

    def _check_head(self) -> None:
        if self._num_headers > MAX_HEADERS:
            self._refuse(TOO_MANY_HEADERS)
        elif self._num_head_bytes + self._num_untold_bytes > self._limits.max_header_bytes:
            self._refuse(self._too_large())

    def _too_large(self) -> ErrorAnswer:
        message = f"the headers have more than {self._limits.max_header_bytes} bytes"
        return ErrorAnswer(431, INVALID_REQUEST_TYPE, message, "request_header_fields_too_large")

    def _is_overloaded(self) -> bool:
        """Whether a request that generates had better come again, before anything is done for it.
        Not behind one that is not answered yet, whose answer the refusal would cut."""
        is_busy = self._lag.is_too_long or self._turnstile.wait_s > MAX_WAIT_S
        return is_busy and not self._unanswered()

    def _too_busy(self) -> ErrorAnswer:
        retry_after_s = max(self._lag.retry_after_s, self._turnstile.wait_s)
        return replace(TOO_BUSY, retry_after_s=retry_after_s)

    # Time

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._on_deadline, seconds)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self, seconds: float) -> None:
        if any(not each.more_body for each in self._unanswered()):
            # A request that is being answered: what is behind it may take its time, and what is
            # not read may be so on our account.
            self._arm(seconds)
        elif self._is_reading:
            self._refuse(TOO_SLOW)
        else:
            self.transport.close()

    def _arm_reading(self) -> None:
        self._disarm_reading()
        self._num_unread_bytes = self.transport.get_write_buffer_size()
        seconds = self._limits.read_timeout_s
        self._read_deadline = self.loop.call_later(seconds, self._on_read_deadline)

    def _watch_rest(self) -> None:
        """Of what is written some may wait for the client, too little to stop writing for: it has
        to read that on in time as well, or its connection would never be closed."""
        if self._read_deadline is None and self.transport.get_write_buffer_size():
            self._arm_reading()

    def _disarm_reading(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _on_read_deadline(self) -> None:
        self._read_deadline = None
        num_unread_bytes = self.transport.get_write_buffer_size()
        if self._num_unread_bytes - num_unread_bytes >= MIN_READ_BYTES:
            self._arm_reading()
        elif num_unread_bytes:
            # Not closed: that would wait for the client to read the rest.
            self.transport.abort()

    # Refusals

    def _count(self, answer: ErrorAnswer) -> None:
        self._refusals.add(answer.code.upper(), answer.message)

    def send_400_response(self, msg: str) -> None:
        self._refuse(ErrorAnswer(400, INVALID_REQUEST_TYPE, msg, "invalid_request"))

    def _refuse(self, answer: ErrorAnswer) -> None:
        if self._refused:
            return
        self._refused = True
        self._places.discard(self)
        self._disarm()
        # An answer that has begun cannot be followed by this one, nor one that was owed before it.
        unanswered = self._unanswered()
        may_answer = len(unanswered) < 2 and not any(each.response_started for each in unanswered)
        self._give_up()
        if may_answer:
            self.transport.write(self._response(answer))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _drop(self, num_bytes: int) -> None:
        self._num_dropped_bytes += num_bytes
        if self._num_dropped_bytes > MAX_LINGER_BYTES:
            self.transport.close()

    def _response(self, answer: ErrorAnswer) -> bytes:
        response = answer.response()
        response.headers["connection"] = "close"
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return b"".join((STATUS_LINE[answer.status], lines, b"\r\n", answer.json()))

    def _unanswered(self) -> list[RequestResponseCycle]:
        return [each for each in self._open if not each.response_complete]

    def _give_up(self) -> None:
        """Tell all that is being served here that nobody waits for it. (uvicorn tells the newest of
        several.)"""
        self.pipeline.clear()
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()


def _is_work(method: bytes, path: bytes) -> bool:
    """Whether a request takes its turn, and only while there is not too much to do. What operators
    and orchestrators ask is little work, tells whether this one lives, and may be what helps."""
    return method == b"POST" and not path.startswith(ORDERS)
