"""HTTP/1.1 on one connection: uvicorn's protocol, with a bound on all that comes before an app is
asked, and on how long nobody reads."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import httptools
from starlette.datastructures import Headers
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from gateway.http.access import TENANT
from gateway.http.body import content_length
from gateway.http.chunked_body import ChunkedBody
from gateway.http.counted import ANSWERED, route_of_url
from gateway.http.errors import INVALID_REQUEST_TYPE, ErrorAnswer
from gateway.http.front_door import FrontDoor
from gateway.http.head import HeadMeter
from gateway.http.limits import MAX_BODY_BYTES, HttpLimits
from gateway.http.parser import RequestParser
from gateway.http.reading import CountingTransport, ReadWatch
from gateway.http.request_id import HEADER as REQUEST_ID
from gateway.http.request_id import request_id_of
from gateway.http.streaming import RESPONSE_BODY
from gateway.http.turned_away import (
    MAX_URL_BYTES,
    NO_PROXY,
    TOO_LONG_BODY,
    TOO_LONG_URL,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_PIPELINED,
    TOO_SLOW,
)
from gateway.http.until_close import KNOWS_CHUNKS, UntilCloseBody, until_close

# Requests that wait for the answer to one before them.
MAX_PIPELINED = 32
# Connections that are told that they are refused; more are closed without waiting for the client.
MAX_TURNED_AWAY = 64
# A header can come in any number of pieces, and only when it is complete is it counted. So what is
# parsed at a time is little.
PIECE_BYTES = 2**14
# What is read after a refusal, and for how long, only to be dropped: a connection that is closed
# while bytes are coming in is reset, and the client may never read why.
MAX_LINGER_BYTES = 2**27
LINGER_S = 0.5


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow, a body that is too long or too slow, a key that
    is not known, and a connection too many, in OpenAI's form, and closes the connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        door: FrontDoor,
    ) -> None:
        """`door` is what all protocols of a server share."""
        super().__init__(config, server_state, app_state, _loop)
        self.parser = cast(httptools.HttpRequestParser, RequestParser(self))
        # Until a request begins.
        self.url = b""
        self._limits = limits
        self._door = door
        self._head = HeadMeter(limits.max_header_bytes)
        self._num_body_bytes = 0
        # Between a request's first byte and its last; and from its head on.
        self._is_reading = False
        self._is_in_body = False
        self._deadline: asyncio.TimerHandle | None = None
        # What was asked for on this connection and is not answered, oldest first.
        self._open: list[RequestResponseCycle] = []
        # Read while a request waits, since the newest answer was complete.
        self._num_waiting_bytes = 0
        self._refused = False
        self._num_dropped_bytes = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._counting = CountingTransport(transport)
        self._read_watch = ReadWatch(self._counting, self._limits.read_timeout_s, self.loop)
        super().connection_made(cast(asyncio.Transport, self._counting))
        if self._door.connect(self):
            self._arm(self._limits.header_timeout_s)
        elif self._num_turned_away <= MAX_TURNED_AWAY:
            self._refuse(TOO_MANY_CONNECTIONS)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        self._disarm()
        self._read_watch.end()
        self._give_up()
        super().connection_lost(exc)
        # It would keep all that is here for as long as the connection might have been idle: uvicorn
        # leaves it where a client has reset the connection.
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_watch.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_watch.end()
        self._read_watch.begin_if_unread()
        for cycle in self._unanswered():
            body = cycle.scope["state"][RESPONSE_BODY]
            if body.on_writable:
                body.on_writable()

    def data_received(self, data: bytes) -> None:
        self._door.wake(self)
        for start in range(0, len(data), PIECE_BYTES):
            if self._refused:
                self._drop(len(data) - start)
                return
            self._parse(data[start : start + PIECE_BYTES])
        self._read_on(len(data))
        if self._deadline is None and not self._unanswered():
            # Nothing that begins a request, like empty lines: as slow as a request would be.
            self._arm(self._limits.header_timeout_s)

    def _read_on(self, num_bytes: int) -> None:
        """Behind a request that waits uvicorn reads nothing; but whoever does not read never learns
        that the client has left. So a little is read all the same."""
        if self.pipeline:
            self._num_waiting_bytes += num_bytes
            if self._num_waiting_bytes < HIGH_WATER_LIMIT:
                self.flow.resume_reading()

    def _parse(self, piece: bytes) -> None:
        super().data_received(piece)
        self._head.read(len(piece))
        self._check_head()

    # What the parser tells of

    def on_message_begin(self) -> None:
        self._head.begin()
        self._is_in_body = False
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
        if self._takes(len(name) + len(value), 1):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(TOO_MANY_PIPELINED)
        elif self.parser.get_method() == b"CONNECT":
            # Its target is an address, which no route has.
            self._refuse(NO_PROXY)
        if self._takes():
            self._admit()
        if self._takes():
            self._arm(self._limits.body_timeout_s)
            super().on_headers_complete()
            knows_chunks = self.scope["http_version"] == KNOWS_CHUNKS
            body = ChunkedBody if knows_chunks else UntilCloseBody
            self.scope["state"][RESPONSE_BODY] = body(self.cycle, self._counting)
            self._open = [*self._unanswered(), self.cycle]
            self._is_in_body = True
            self._num_body_bytes = 0

    def _admit(self) -> None:
        """Find whose the request is, and refuse it if its head says that it is not to be served.
        But not behind one that is not answered yet, whose answer a refusal would cut: then that is
        the app's matter."""
        headers = Headers(raw=self.headers)
        whose = self._door.whose(headers)
        if isinstance(whose, str):
            self.scope["state"][TENANT] = whose
        if self._unanswered():
            return
        if refusal := self._door.refusal(self, whose, self.parser.get_method(), self.url):
            self._refuse(refusal)
        elif content_length(headers.get("content-length", "")) > MAX_BODY_BYTES:
            self._refuse(TOO_LONG_BODY)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope = cycle.scope
        if scope["http_version"] != KNOWS_CHUNKS:
            app = until_close(app, cycle)
        start = partial(super()._start_asgi_task, cycle, app)
        tenant = scope["state"].get(TENANT)
        self._door.let_in(start, tenant, scope["method"].encode(), scope["raw_path"])

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        if self._num_body_bytes > MAX_BODY_BYTES:
            self._refuse(TOO_LONG_BODY)
        if self._takes():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._takes():
            self._is_reading = self._is_in_body = False
            self._disarm()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._num_waiting_bytes = 0
        self._read_watch.begin_if_unread()
        is_idle = not (self._refused or self._is_reading or self._unanswered())
        if is_idle and not self.transport.is_closing():
            self._door.rest(self, self.transport.close)

    def _takes(self, num_head_bytes: int = 0, num_headers: int = 0) -> bool:
        """Count what the parser has come upon; whether it is still wanted."""
        self._head.told(num_head_bytes, num_headers)
        self._check_head()
        return not self._refused

    def _check_head(self) -> None:
        if refusal := self._head.refusal():
            self._refuse(refusal)

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

    # Refusals

    @property
    def _num_turned_away(self) -> int:
        return len(self.connections) - self._door.num_places_held

    def send_400_response(self, msg: str) -> None:
        self._refuse(ErrorAnswer(400, INVALID_REQUEST_TYPE, msg, "invalid_request"))

    def _refuse(self, answer: ErrorAnswer) -> None:
        if self._refused:
            return
        self._refused = True
        self._door.leave(self)
        self._disarm()
        # An answer that has begun cannot be followed by this one, nor one that was owed before it,
        # and a request whose body still comes may have its answer already.
        unanswered = self._unanswered()
        may_answer = (
            len(unanswered) < 2
            and not any(each.response_started for each in unanswered)
            and not (self._is_in_body and self.cycle.response_complete)
        )
        for cycle in unanswered:
            # What its app says now is nobody's answer.
            cycle.scope["state"][ANSWERED] = may_answer
        self._give_up()
        if may_answer:
            self.transport.write(self._response(answer))
            host, _ = self.client or ("", 0)
            self._door.outcomes.add(route_of_url(self.url), str(answer.status), host)
        self.transport.write_eof()
        # It may wait for the app, which reads no more.
        self.flow.resume_reading()
        if self._num_turned_away <= MAX_TURNED_AWAY:
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _drop(self, num_bytes: int) -> None:
        self._num_dropped_bytes += num_bytes
        if self._num_dropped_bytes > MAX_LINGER_BYTES:
            self.transport.close()

    def _response(self, answer: ErrorAnswer) -> bytes:
        response = answer.response()
        response.headers["connection"] = "close"
        response.headers[REQUEST_ID] = request_id_of(Headers(raw=self.headers or []))
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
            # Nor is it told to go on, behind the end of what is written.
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
