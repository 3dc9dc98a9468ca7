"""The page's files, as a browser is given them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from http_client import serving

from gateway.http.errors import add_error_handlers
from gateway.http.page import page_router
from gateway.page.assets import read_assets
from gateway.page.viewers import MAX_VIEWERS, Tick, Viewers
from gateway.refusals import Refusals

LINK = re.compile(r'(?:href|src)="(/page/[^"]+)"')
IMPORT = re.compile(r'^import .* from "\./([^"]+)";$', re.MULTILINE)


class Gateway:
    """Its page, whose ticks say nothing."""

    def __init__(self) -> None:
        self.stopping = False
        self.viewers = Viewers(self._open, lambda: self.stopping, tick_s=0.01)
        self.app = FastAPI()
        self.refused = Counter[str]()
        self.app.include_router(page_router(self.viewers, Refusals(self.refused)))
        add_error_handlers(self.app)

    def _open(self) -> Tick:
        return self._tick

    async def _tick(self) -> bytes:
        return b"{}"


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def browser(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def test_nothing_may_come_from_elsewhere(browser: httpx.AsyncClient) -> None:
    for path in ("/", *(f"/page/{name}" for name in read_assets())):
        response = await browser.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        # But for the names of XML's vocabularies.
        text = response.text.replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|<script>|<style|\sstyle=|\son\w+=", text), path


async def test_all_that_is_linked_is_there(browser: httpx.AsyncClient) -> None:
    html = (await browser.get("/")).text
    names = {link.rpartition("/")[2] for link in LINK.findall(html)}
    for asset in read_assets().values():
        names.update(IMPORT.findall(asset.content.decode()))
    assert names | {"index.html"} == set(read_assets())


async def test_a_file_that_the_browser_has_is_not_sent_again(browser: httpx.AsyncClient) -> None:
    response = await browser.get("/page/main.js")
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    etag = response.headers["etag"]
    again = await browser.get("/page/main.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = await browser.get("/page/main.js", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js"])
async def test_head_is_get_without_the_body(browser: httpx.AsyncClient, path: str) -> None:
    asked, got = await browser.head(path), await browser.get(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize("name", ["none.js", "..%2Fassets.py", "%2Fetc%2Fpasswd"])
async def test_there_are_no_other_files(browser: httpx.AsyncClient, name: str) -> None:
    assert (await browser.get(f"/page/{name}")).status_code == 404


async def test_events_come_until_the_gateway_stops(gateway: Gateway) -> None:
    async with (
        serving(gateway.app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        client.stream("GET", "/page/events") as response,
        asyncio.timeout(30),
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        while await anext(lines) != "data: {}":
            pass
        gateway.stopping = True
        async for _ in lines:
            pass


async def test_who_leaves_makes_room(gateway: Gateway) -> None:
    async with (
        serving(gateway.app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        asyncio.timeout(30),
    ):
        looking = [
            await client.send(client.build_request("GET", "/page/events"), stream=True)
            for _ in range(MAX_VIEWERS)
        ]
        refused = await client.get("/page/events")
        assert refused.status_code == 429
        assert refused.json()["error"]["message"] == "too many look at the page"
        assert gateway.refused == {"RESOURCE_EXHAUSTED": 1}
        await looking.pop().aclose()
        while True:
            response = await client.send(client.build_request("GET", "/page/events"), stream=True)
            if response.status_code == 200:
                looking.append(response)
                break
            await response.aclose()
        for each in looking:
            await each.aclose()
