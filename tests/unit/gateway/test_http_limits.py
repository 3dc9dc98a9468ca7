"""What comes before a request's body is bounded: in bytes, in number and in time. So is how long a
client reads nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections import Counter
from contextlib import suppress

import pytest
import uvicorn
from http_client import POST, Connection, connected, post, serving, serving_one
from scripted_service import Pause, ended
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from gateway.access import Access
from gateway.http import protocol as protocol_module
from gateway.http.counted import http_outcomes
from gateway.http.front_door import FrontDoor
from gateway.http.limits import MAX_BODY_BYTES, HttpLimits
from gateway.http.protocol import MAX_PIPELINED, BoundedProtocol
from gateway.http.reading import MIN_READ_BYTES
from gateway.http.turned_away import MAX_HEADERS, MAX_URL_BYTES
from gateway.lag import Lag
from gateway.refusals import Refusals

LIVE = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
SHORT_S = 0.25
MAX_HEADER_BYTES = 2**16


async def refusal(connection: Connection) -> tuple[int, str]:
    """Status and code of an answer that closes the connection."""
    head, _, body = (await connection.reader.read()).partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"content-length: %d\r\n" % len(body) in head
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


def headers(num_bytes: int, each: int) -> list[bytes]:
    line = b"X-Much: " + b"a" * (each - 10) + b"\r\n"
    return [line] * (num_bytes // each)


TOO_LARGE = (431, "request_header_fields_too_large")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ([b"GET / HTTP/1.1\r\n", *headers(2**20, 60_000)], TOO_LARGE),
        ([b"GET / HTTP/1.1\r\n", *headers(2**17, 1000)], TOO_LARGE),
        ([b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * (MAX_HEADERS + 1), b"\r\n"], TOO_LARGE),
        ([b"GET / HTTP/1.1\r\nX: ", *[b"a" * 2**14] * 64], TOO_LARGE),
        ([b"GET / HTTP/1.1\r\n", *[b"a" * 2**14] * 64], TOO_LARGE),
        ([b"GET /", b"a" * MAX_URL_BYTES, b" HTTP/1.1\r\n\r\n"], (414, "uri_too_long")),
        ([b"GET /", *[b"a" * 1000] * 1000], (414, "uri_too_long")),
        ([b"\r\n" * 1000] * 100, TOO_LARGE),
        ([b"nonsense\r\n\r\n"], (400, "invalid_request")),
        (
            [
                POST,
                b"Transfer-Encoding: chunked\r\n\r\n",
                b"1\r\n \r\n0\r\n",
                *headers(2**20, 60000),
            ],
            TOO_LARGE,
        ),
        (
            [POST, b"Transfer-Encoding: chunked\r\n\r\n", b"1;", *[b"a" * 2**14] * 64],
            TOO_LARGE,
        ),
    ],
)
async def test_a_head_that_is_too_large_is_refused_while_it_comes(app, service, head, expected):
    async with serving(app, max_header_bytes=MAX_HEADER_BYTES) as port:
        async with connected(port) as connection:
            await connection.send(*head)
            assert await refusal(connection) == expected
        async with connected(port) as connection:
            await connection.send(LIVE)
            assert await connection.status() == 200
    assert not service.requests


async def test_a_head_that_is_as_large_as_allowed_is_served(app):
    async with serving_one(app, max_header_bytes=MAX_HEADER_BYTES) as connection:
        head = [b"GET /live HTTP/1.1\r\nHost: x\r\n", *headers(60_000, 1000), b"\r\n"]
        # Again and again: each request is counted by itself.
        for _ in range(3):
            await connection.send(b"".join(head))
            assert (await connection.answer())[0] == 200


@pytest.mark.parametrize(
    ("beginning", "is_told"),
    [
        ([b"G"], True),
        ([b"GET /live HTTP/1.1\r\n", b"X: y"], True),
        ([LIVE, b"\r\n", b"GET /"], True),
        # No request begins with these.
        ([], False),
        ([b"\r\n"], False),
        ([LIVE, b"\r\n"], False),
    ],
)
async def test_a_head_that_does_not_come_is_not_waited_for(app, beginning, is_told):
    async with serving_one(app, header_timeout_s=SHORT_S) as connection:
        for piece in beginning:
            await connection.send(piece)
            if piece is LIVE:
                assert (await connection.answer())[0] == 200
        if is_told:
            assert await refusal(connection) == (408, "request_timeout")
        else:
            assert await connection.reader.read() == b""


async def test_a_body_that_does_not_come_is_not_waited_for(app, service, logs):
    async with serving_one(app, body_timeout_s=SHORT_S) as connection:
        await connection.send(POST, b'Content-Length: 100\r\n\r\n{"prompt": ')
        assert await refusal(connection) == (408, "request_timeout")
    assert not service.requests
    assert not [entry for entry in logs if entry["log_level"] == "error"]


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_body_that_is_too_long_is_refused_while_it_comes(app, service, says_so):
    """And read on, so that the client may read why, however much it sends before."""
    async with serving_one(app) as connection:
        if says_so:
            await connection.send(POST, b"Content-Length: 20000000\r\n\r\n", b" " * 20_000_000)
        else:
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            await connection.send(POST, b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 300)
        assert await refusal(connection) == (413, "request_entity_too_large")
    assert not service.requests


async def test_what_is_answered_already_has_no_second_answer(app):
    """Though more of its body comes than may."""
    nowhere = POST.replace(b"/v1/completions", b"/nowhere")
    async with serving_one(app) as connection:
        await connection.send(nowhere, b"Transfer-Encoding: chunked\r\n\r\n")
        assert await connection.status() == 404
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        await connection.send(*[chunk] * (MAX_BODY_BYTES // 0x10000 + 1))
        assert b"HTTP/1.1" not in await connection.reader.read()


async def test_who_is_refused_is_not_told_to_go_on(app, logs):
    """Its app asks for the body when nothing more can be written."""
    async with serving_one(app) as connection:
        head = b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(POST + head + b"no chunk\r\n")
        assert await refusal(connection) == (400, "invalid_request")
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_an_answer_takes_as_long_as_it_takes(app, service):
    service.script = lambda request: [72, Pause.FOREVER]
    async with serving_one(app, header_timeout_s=SHORT_S, body_timeout_s=SHORT_S) as connection:
        await connection.send(post(b'{"prompt": "Hi", "stream": true}'))
        assert await connection.status() == 200
        await connection.reader.readuntil(b'"text":"H"')
        # What comes behind it is no reason to end it, however slowly.
        await connection.send(b"\r\nGET /li")
        await asyncio.sleep(2 * SHORT_S)
        assert not service.streams[0].cancelled.is_set()
        assert not connection.reader.at_eof()


# More than the kernel keeps for a connection.
LONG = b"x" * 2**26


async def test_a_client_that_does_not_read_is_not_waited_for():
    written = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": LONG, "more_body": True})
            # It waits until that is read.
            await send({"type": "http.response.body", "body": b""})
            written.set()

    async with serving_one(app, read_timeout_s=SHORT_S) as connection:
        await connection.send(LIVE)
        assert await connection.status() == 200
        await written.wait()
        with suppress(ConnectionError):
            assert len(await connection.reader.read()) < len(LONG)


class SlowlyRead(asyncio.Transport):
    """So many bytes are unread each time that it is asked."""

    def __init__(self, *num_unread_bytes: int) -> None:
        super().__init__()
        self.num_unread_bytes = list(num_unread_bytes)
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.num_unread_bytes.pop(0)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted.set()


def connection(app: ASGIApp, transport: asyncio.Transport) -> BoundedProtocol:
    protocol = BoundedProtocol(
        uvicorn.Config(app, log_config=None),
        ServerState(),
        {},
        limits=HttpLimits(header_timeout_s=60.0, read_timeout_s=0.01),
        door=FrontDoor(Access(), 1, Lag(), Refusals(), http_outcomes()),
    )
    protocol.connection_made(transport)
    return protocol


async def test_who_reads_on_may_take_time(app):
    step = MIN_READ_BYTES
    transport = SlowlyRead(10 * step, 9 * step, 9 * step, 8 * step, 8 * step, 7 * step + 1)
    protocol = connection(app, transport)
    protocol.pause_writing()
    async with asyncio.timeout(10):
        await transport.aborted.wait()
    assert not transport.num_unread_bytes
    # Nor is one that reads in time held to it later.
    transport.num_unread_bytes += [step, 0]
    protocol.pause_writing()
    protocol.resume_writing()
    await asyncio.sleep(0.03)
    assert not transport.num_unread_bytes


@pytest.mark.parametrize("is_paused_before", [False, True])
async def test_the_rest_of_an_answer_has_to_be_read_as_well(app, is_paused_before):
    """Also where it is too little to stop writing for."""
    rest = [100, 100, 100]
    transport = SlowlyRead(*([2**17, *rest] if is_paused_before else rest))
    protocol = connection(app, transport)
    if is_paused_before:
        protocol.pause_writing()
        protocol.resume_writing()
    else:
        protocol.on_response_complete()
    async with asyncio.timeout(10):
        await transport.aborted.wait()
    assert not transport.num_unread_bytes


class KeptOpen(asyncio.Transport):
    """Of a connection that its client does not close."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.has_ended = False
        self.is_read = True
        self.closed = asyncio.Event()

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.has_ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()


async def test_who_is_refused_and_stays_is_waited_for_a_while(app, monkeypatch):
    monkeypatch.setattr(protocol_module, "LINGER_S", 0.01)
    transport = KeptOpen()
    connection(app, transport).data_received(b"nonsense\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400")
    assert transport.has_ended
    assert not transport.closed.is_set()
    async with asyncio.timeout(10):
        await transport.closed.wait()


async def test_who_is_refused_and_goes_on_is_read_so_far(app, monkeypatch):
    monkeypatch.setattr(protocol_module, "MAX_LINGER_BYTES", 100)
    transport = KeptOpen()
    refused = connection(app, transport)
    for piece in (b"nonsense\r\n\r\n", b"x" * 100):
        refused.data_received(piece)
        assert not transport.closed.is_set()
    refused.data_received(b"x")
    assert transport.closed.is_set()


async def test_who_has_read_the_rest_in_time_is_not_cut_off(app):
    transport = SlowlyRead(100, 100, 0)
    connection(app, transport).on_response_complete()
    async with asyncio.timeout(10):
        while transport.num_unread_bytes:
            await asyncio.sleep(0.005)
    assert not transport.aborted.is_set()


async def test_a_connection_too_many_is_told_so(app):
    counts = Counter[str]()
    async with serving(app, max_connections=1, refusals=Refusals(counts)) as port:
        async with connected(port) as first:
            # Half a request: nothing that would give way.
            await first.send(LIVE, LIVE[:5])
            assert await first.status() == 200
            async with connected(port) as second:
                await second.send(LIVE)
                assert await refusal(second) == (503, "unavailable")
                assert counts == {"UNAVAILABLE": 1}
        # Its place is free again.
        statuses = []
        while 200 not in statuses:
            async with connected(port) as third:
                await third.send(LIVE)
                statuses.append(await third.status())
        assert set(statuses) <= {200, 503}


async def test_the_longest_idle_connection_gives_way_to_a_new_one(app):
    async with (
        serving(app, max_connections=2) as port,
        connected(port) as longest,
        connected(port) as other,
    ):
        for each in (longest, other, other, longest, other):
            await each.send(LIVE)
            assert (await each.answer())[0] == 200
        async with connected(port) as newcomer:
            await newcomer.send(LIVE)
            assert await newcomer.status() == 200
            assert await longest.reader.read() == b""
            await other.send(LIVE)
            assert await other.status() == 200


async def test_an_idle_connection_is_kept_and_then_closed(app):
    assert HttpLimits().keep_alive_s == 75
    async with serving_one(app, keep_alive_s=4 * SHORT_S, header_timeout_s=0.1) as connection:
        await connection.send(LIVE)
        assert (await connection.answer())[0] == 200
        # Longer than a head may take: it is no slow one.
        await asyncio.sleep(SHORT_S)
        await connection.send(LIVE)
        assert (await connection.answer())[0] == 200
        # uvicorn's own time is 5 s.
        async with asyncio.timeout(4):
            assert await connection.reader.read() == b""


@pytest.mark.parametrize("num_at_once", [3, 1])
async def test_whoever_pipelines_and_leaves_ends_all_that_was_asked(app, service, num_at_once):
    service.script = lambda request: [Pause.FOREVER]
    request = post(b'{"prompt": "Hi"}')
    async with serving(app) as port:
        async with connected(port) as connection:
            await connection.send(request * num_at_once)
            while not service.streams:
                await asyncio.sleep(0.005)
            await connection.send(request * (3 - num_at_once))
        async with asyncio.timeout(10):
            await service.streams[0].cancelled.wait()
    assert len(service.requests) == 1


async def test_of_what_waits_behind_a_request_a_little_is_read_each_time(app, service):
    """So that it is known when the client leaves, however much it has asked for before."""
    service.script = lambda request: [Pause.A_MOMENT, ended()]
    transport = KeptOpen()
    client = connection(app, transport)
    request = post(b'{"prompt": "Hi", "user": "%b"}' % (b"x" * (HIGH_WATER_LIMIT * 2 // 3)))
    for num_answered in (0, 2, 4):
        client.data_received(LIVE + request)
        assert transport.is_read
        async with asyncio.timeout(10):
            while transport.written.count(b"HTTP/1.1 200") < num_answered + 2:
                await asyncio.sleep(0)
    client.data_received(LIVE + request)
    client.data_received(LIVE + request)
    assert not transport.is_read
    client.connection_lost(None)


async def test_pipelined_requests_are_bounded(app, service):
    service.script = lambda request: [Pause.FOREVER]
    request = post(b'{"prompt": "Hi"}')
    async with serving_one(app) as connection:
        await connection.send(request)
        while not service.streams:
            await asyncio.sleep(0.005)
        await connection.send(LIVE * (MAX_PIPELINED + 1))
        assert await connection.reader.read() == b""
    assert service.streams[0].cancelled.is_set()


async def test_a_connection_that_is_reset_is_forgotten(app):
    """Not only when it would have been idle for too long."""
    protocol = connection(app, SlowlyRead(0))
    protocol.on_response_complete()
    protocol.connection_lost(ConnectionResetError())
    kept = weakref.ref(protocol)
    del protocol
    gc.collect()
    assert kept() is None
