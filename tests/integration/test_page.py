"""What a gateway tells the page while it serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from running_gateway import running_gateway

Json = dict[str, Any]
BODY = {"prompt": "a most private matter", "max_tokens": 60, "ignore_eos": True}


async def ticks(client: httpx.AsyncClient) -> AsyncIterator[Json]:
    async with client.stream("GET", "/page/events") as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                assert "private" not in line
                yield json.loads(line.removeprefix("data: "))


async def ask(client: httpx.AsyncClient, name: str) -> None:
    headers = {"X-Request-Id": name}
    response = await client.post("/v1/completions", json=BODY, headers=headers, timeout=60)
    assert response.status_code == 200


async def test_it_sees_requests_through() -> None:
    kinds: dict[str, set[int]] = {}
    names: set[str] = set()
    sequences: set[int] = set()
    async with running_gateway() as gateway, gateway.client() as client, asyncio.timeout(60):
        asking = asyncio.gather(ask(client, "page-1"), ask(client, "private-2"))
        async for tick in ticks(client):
            for worker, rows in tick["lanes"].items():
                role = worker.partition("-")[0]
                kinds.setdefault(role, set()).update(row[0] for row in rows)
            names.update(each["name"] for each in tick["requests"]["shown"])
            sequences.update(each["sequence"] for each in tick["requests"]["shown"])
            # Of the end, spans come later than tokens; figures once a second.
            if asking.done() and tick["totals"]["finished"] == 2 and tick["pipeline"]["efficiency"]:
                break
        await asking

    assert kinds == {"prefill": {1, 4}, "decode": {1, 3}}
    # Only the page's own chats are named.
    assert names == {"", "page-1"}
    assert len(sequences) == 2
    assert tick["totals"]["generated_tokens"] == 120
    assert tick["queue"] == [0, 0]
    assert sum(tick["requests"]["counts"].values()) == 0
    assert tick["bottleneck"] == {"where": "none", "text": "nothing is asked for"}
    assert 0 < tick["first_token_s"][0] <= tick["first_token_s"][1]
    prefill, decode = tick["workers"]
    assert (prefill["role"], decode["role"]) == ("prefill", "decode")
    assert decode["state"] == "serving"
    assert 0 < decode["busy"] <= 1
    assert tick["model"] == "mock"
