"""What tests of the HTTP side share."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp

from gateway.http.limits import HttpLimits
from gateway.http.server import HttpServer

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"prompt": "Hi"}

Json = dict[str, Any]


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


@asynccontextmanager
async def serving(app: ASGIApp, **limits: Any) -> AsyncIterator[int]:
    """The port of a server over a real socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpServer(app, HttpLimits(**limits))
        running = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        yield listener.getsockname()[1]
        server.should_exit = True
        await running
