"""Over a real socket: OpenAI's own client, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import openai
import pytest
from http_client import POST, connected, post, serving
from scripted_service import Pause, ended

from gateway.access import Access
from gateway.http.counted import http_outcomes
from gateway.http.limits import HttpLimits
from gateway.http.server import HttpServer
from gateway.lag import Lag
from gateway.refusals import Refusals
from tandem.core.errors import Unavailable

CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def url(app):
    async with serving(app) as port:
        yield f"http://127.0.0.1:{port}"


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.fixture
async def client(url):
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    async with client:
        yield client


async def test_openais_client(client):
    chat = await client.chat.completions.create(model="default", messages=CHAT, temperature=0)
    assert chat.choices[0].message.content == "Hello, world"
    assert chat.usage.prompt_tokens_details.cached_tokens == 2
    completion = await client.completions.create(model="default", prompt="Hi", max_tokens=12)
    assert completion.choices[0].text == "Hello, world"
    models = await client.models.list()
    assert [model.id for model in models.data] == ["mock", "default"]


async def test_openais_client_streaming(client):
    stream = await client.chat.completions.create(
        model="mock", messages=CHAT, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "Hello, world"
    assert chunks[-1].usage.completion_tokens == 12


async def test_openais_client_and_errors(client, service):
    with pytest.raises(openai.NotFoundError) as not_found:
        await client.completions.create(model="gpt", prompt="Hi")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.completions.create(model="mock", prompt="x" * 5000)
    assert bad.value.code == "context_length_exceeded"
    service.script = lambda request: [72, Unavailable("the worker left")]
    stream = await client.completions.create(model="mock", prompt="Hi", stream=True)
    with pytest.raises(openai.APIError, match="the worker left"):
        _ = [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 3])
async def test_a_client_that_leaves_ends_its_generation(url, service, logs, stream, num_tokens):
    service.script = lambda request: [72] * num_tokens + [Pause.FOREVER]
    async with httpx.AsyncClient(base_url=url) as client:
        body = {"prompt": "Hi", "stream": stream}
        call = asyncio.create_task(client.post("/v1/completions", json=body))
        async with asyncio.timeout(10):
            await service.generated(num_tokens)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    async with asyncio.timeout(10):
        await service.streams[0].cancelled.wait()
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_client_that_leaves_in_its_body_is_forgotten(url, service):
    async with connected(port_of(url)) as connection:
        await connection.send(POST + b'Content-Length: 100\r\n\r\n{"prompt": ')
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/live")).status_code == 200
    assert not service.requests


@pytest.mark.parametrize("stream", [b"true", b"false"])
@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
async def test_who_speaks_http_1_0_gets_no_chunks(url, service, connection, stream):
    service.script = lambda request: [72, Pause.A_MOMENT, 105, ended()]
    body = b'{"prompt": "Hi", "stream": %b}' % stream
    head = b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n" + connection
    async with connected(port_of(url)) as client:
        await client.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer_head, _, answer = (await client.reader.read()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer_head
    assert b"connection: close" in answer_head
    if stream == b"true":
        *events, done, rest = answer.split(b"\n\n")
        assert [json.loads(each.removeprefix(b"data: ")) for each in events]
        assert (done, rest) == (b"data: [DONE]", b"")
    else:
        assert json.loads(answer)["choices"][0]["text"] == "Hi"


async def test_head_has_no_body(url):
    async with httpx.AsyncClient(base_url=url) as client:
        for path in ("/ready", "/v1/models/mock", "/v1/models/gpt"):
            # On one connection, where a body would be taken for the next answer.
            asked, got = await client.head(path), await client.get(path)
            assert asked.headers["content-length"] == got.headers["content-length"]
            assert (asked.status_code, asked.content) == (got.status_code, b"")


async def test_a_body_that_is_too_long_is_answered(url):
    async with httpx.AsyncClient(base_url=url) as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/v1/completions", content=b" " * 2 * 10**7, headers=headers)
        assert response.status_code == 413
        assert response.json()["error"]["param"] is None


async def test_a_client_that_does_not_read_is_not_written_to(app, service, say):
    """What is generated meanwhile is not taken: it waits where it came from."""
    service.script = lambda request: [72, Pause.A_MOMENT, *say("ello")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpServer(app, HttpLimits(), Lag(), Access(), Refusals(), http_outcomes())
        running = asyncio.create_task(server.serve([listener]))
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.005)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(post(b'{"prompt": "Hi", "stream": true}'))
            await reader.readuntil(b'"text":"H"')
            (protocol,) = server.server_state.connections
            # As the transport does when its buffer is full, and when there is room again.
            protocol.pause_writing()
            await asyncio.sleep(0.05)
            assert service.streams[0].num_tokens == 1
            protocol.resume_writing()
            await reader.readuntil(b"data: [DONE]\n\n")
            assert service.streams[0].num_tokens == 5
            writer.close()
        server.should_exit = True
        await running


async def test_a_slow_reader_holds_nobody_up(url, service, say):
    service.script = lambda request: say("Hello, world" * 150)
    body = {"prompt": "Hi", "stream": True, "max_tokens": 2000}
    async with httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/v1/completions", json=body) as slow:
            assert slow.status_code == 200
            service.script = lambda request: say("Hello")
            response = await client.post("/v1/completions", json={"prompt": "Hi"})
            assert response.json()["choices"][0]["text"] == "Hello"
        assert (await client.get("/live")).status_code == 200
