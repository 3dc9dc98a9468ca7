"""What tests of the HTTP side share."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any
from unittest.mock import Mock, patch

import httpx
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import Access
from gateway.http import protocol
from gateway.http.counted import http_outcomes
from gateway.http.limits import HttpLimits
from gateway.http.server import HttpServer
from gateway.http.streaming import RESPONSE_BODY
from gateway.lag import Lag
from gateway.outcomes import Outcomes
from gateway.refusals import Refusals

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"prompt": "Hi"}
# The beginning of a head, up to the length of its body.
POST = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % TEXT_PATH.encode()

NO_LAG = Lag()

Json = dict[str, Any]


def post(body: bytes, headers: bytes = b"") -> bytes:
    """All of a request."""
    return POST + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Connection:
    """A client that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Each is read by itself, as far as the other end lets them come."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            # The first turn of the loop finds it there, and what it finds is read in the next.
            for _ in range(2):
                await asyncio.sleep(0)

    async def head(self) -> bytes:
        """Of the next answer, which is never of another protocol."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b"\r\nupgrade:" not in head.lower()
        return head

    async def status(self) -> int:
        """Of the next answer, whose head alone is read."""
        return int((await self.head()).split()[1])

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer, which has a length."""
        head = await self.head()
        length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
        return int(head.split()[1]), await self.reader.readexactly(int(length))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection that does not outlast a test that hangs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            yield Connection(reader, writer)
    finally:
        writer.close()


class WrittenBody:
    """A `ResponseBody` that keeps what is written."""

    is_writable = True

    def __init__(self) -> None:
        self.on_writable: Callable[[], None] | None = None
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()


def with_body(app: ASGIApp) -> ASGIApp:
    """What our server does for an app, without a server."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        body = WrittenBody()

        async def send_all(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = message | {"body": b"".join([*body.pieces, message["body"]])}
                body.pieces.clear()
            await send(message)

        await app(scope | {"state": {RESPONSE_BODY: body}}, receive, send_all)

    return call


async def sent_by(
    response: Response, on_body: Callable[[], object] = lambda: None
) -> list[Message]:
    """What a response sends. `on_body` is called at each part of its body."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            on_body()

    await response({"type": "http"}, Mock(), send)
    return sent


@contextmanager
def counted_turns() -> Iterator[list[int]]:
    """An entry for each turn of the event loop that begins in the block."""
    turns: list[int] = []
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal next_turn
        turns.append(1)
        next_turn = loop.call_soon(turn)

    next_turn = loop.call_soon(turn)
    yield turns
    next_turn.cancel()


def events(response: httpx.Response) -> list[Json]:
    """The data of each event before the last, which is [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    lines = [line for line in response.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def whole(client: httpx.AsyncClient, path: str, body: Json) -> Json:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def stream(client: httpx.AsyncClient, path: str, body: Json) -> list[Json]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(await client.post(path, json=options | body))
    assert not [chunk for chunk in chunks if "error" in chunk]
    return chunks


def assert_refused(response: httpx.Response, status: int, param: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error["message"]


@contextmanager
def counted_calls() -> Iterator[Callable[[], int]]:
    """How many functions this thread calls, those of C included: the turns that all others wait
    for, whatever the machine's pace."""
    num_calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        yield lambda: num_calls
    finally:
        sys.setprofile(None)


@asynccontextmanager
async def serving(
    app: ASGIApp,
    lag: Lag = NO_LAG,
    refusals: Refusals | None = None,
    access: Access | None = None,
    outcomes: Outcomes | None = None,
    **limits: Any,
) -> AsyncIterator[int]:
    """The port of a server over a real socket, which reads what it has refused for as long as that
    takes here. `access` is the app's."""
    with (
        patch.object(protocol, "LINGER_S", 60.0),
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        server = HttpServer(
            app,
            HttpLimits(**limits),
            lag,
            access or Access(),
            refusals or Refusals(),
            outcomes or http_outcomes(),
        )
        running = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        yield listener.getsockname()[1]
        server.should_exit = True
        await running


@asynccontextmanager
async def serving_one(app: ASGIApp, **settings: Any) -> AsyncIterator[Connection]:
    """A connection to such a server."""
    async with serving(app, **settings) as port, connected(port) as connection:
        yield connection
