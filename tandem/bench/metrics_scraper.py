"""Reads a server's `/metrics` while it is under load, as a Prometheus would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

import httpx2

from tandem.bench.http_head import authorization
from tandem.bench.refusal import http_error_text
from tandem.bench.tls import tls_context

INTERVAL_S = 1.0
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """A page, and when it was asked for. It is read after the run: that takes time."""

    at_s: float
    text: str


class MetricsScraper:
    """Scrapes for as long as it is entered: at once, once a second, and at the end; nothing without
    a `url`. A server that has no metrics is no failure: `problem` says why some are missing, the
    last one's why."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url
        self._headers = authorization(api_key)
        self.scrapes: list[Scrape] = []
        self.problem = ""

    @asynccontextmanager
    async def scraping(self) -> AsyncIterator[None]:
        if not self._url:
            yield
            return
        async with httpx2.AsyncClient(
            headers=self._headers,
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=tls_context(self._url) or False,
        ) as client:
            await self._scrape(client)
            going_on = asyncio.create_task(self._go_on(client))
            try:
                yield
            finally:
                going_on.cancel()
                await asyncio.gather(going_on, return_exceptions=True)
                await self._scrape(client)

    async def _go_on(self, client: httpx2.AsyncClient) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self._scrape(client)

    async def _scrape(self, client: httpx2.AsyncClient) -> None:
        at_s = perf_counter()
        try:
            response = await client.get(self._url)
            response.raise_for_status()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            self.problem = f"{self._url}: {http_error_text(error)}"
        else:
            self.scrapes.append(Scrape(at_s, response.text))
