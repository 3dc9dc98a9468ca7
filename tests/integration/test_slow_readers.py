"""Clients that read a byte a second, 64 at once: what they do not read waits in bounded memory, and
everybody else is served as if they were not there."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
from up import running_up

NUM_SLOW = 64
NUM_OTHERS = 16
# Answers of 25 MiB in all, most of it log-probabilities: far more than sockets hold.
LONG = {"n": 2, "logprobs": 20, "max_tokens": 320}
NUM_TOKENS = 40
SOCKET_BYTES, SEGMENT_BYTES = 4096, 536
SERVED = b"HTTP/1.1 200"
# What is written and unread, and 640 tokens with 20 candidates each.
MAX_GROWTH_BYTES = NUM_SLOW * 640 * 2**10


def request(**settings: object) -> dict[str, object]:
    fields = {"model": "default", "prompt": list(range(64)), "stream": True, "ignore_eos": True}
    return {**fields, **settings}


@asynccontextmanager
async def slow_reader(port: int) -> AsyncIterator[None]:
    """For as long as the block takes, somebody reads a long answer at a byte a second."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    # Or the other end's kernel takes a megabyte: ten of the loopback's segments.
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    body = json.dumps(request(**LONG)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
    await loop.sock_sendall(client, f"{head}Content-Type: application/json\r\n\r\n".encode() + body)

    assert await loop.sock_recv(client, len(SERVED)) == SERVED

    async def read() -> None:
        while await loop.sock_recv(client, 1):
            await asyncio.sleep(1)

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        client.close()


async def answer(client: httpx2.AsyncClient) -> int:
    """How many tokens came."""
    body = request(max_tokens=NUM_TOKENS, stream_options={"include_usage": True})
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        lines = [line[6:] async for line in response.aiter_lines() if line.startswith("data: {")]
    return int(json.loads(lines[-1])["usage"]["completion_tokens"])


async def num_running(client: httpx2.AsyncClient) -> float:
    page = (await client.get("/metrics")).raise_for_status().text
    lines = [each for each in page.splitlines() if each.startswith("vllm:num_requests_running")]
    return sum(float(each.rpartition(" ")[2]) for each in lines)


async def test_who_reads_slowly_costs_nobody_else_anything(tmp_path: Path) -> None:
    with running_up(tmp_path, "--device", "mock:h100x5", "--num-blocks", "8192") as up:
        gateway = up.child("gateway")
        async with (
            httpx2.AsyncClient(base_url=up.url, timeout=60) as client,
            AsyncExitStack() as slow,
        ):
            await answer(client)
            before = gateway.memory_info().rss
            for _ in range(NUM_SLOW):
                await slow.enter_async_context(slow_reader(up.http_port))
            counts = await asyncio.gather(*(answer(client) for _ in range(NUM_OTHERS)))
            assert counts == [NUM_TOKENS] * NUM_OTHERS
            # All that can be computed of their answers has been: what is left waits for them.
            async with asyncio.timeout(60):
                while await num_running(client):
                    await asyncio.sleep(0.1)  # another process: there is no event to wait for
            assert gateway.memory_info().rss - before < MAX_GROWTH_BYTES
            assert await answer(client) == NUM_TOKENS
