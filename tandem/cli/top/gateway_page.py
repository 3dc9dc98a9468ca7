"""A gateway's page, as a program uses it: its feed, and its orders to workers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from tandem.bench.tls import tls_context
from tandem.cli.top.tick import Tick, read_tick
from tandem.client.connection import call_metadata
from tandem.core.address import without_v1
from tandem.core.errors import (
    ConfigError,
    Mismatch,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tandem.core.proxies import may_take_proxy

DEFAULT_URL = "http://127.0.0.1:8000"
# Ticks come four times a second.
TIMEOUT_S = 5.0
# What a form cannot send, so that no other page's forms give orders.
ORDER_HEADERS = {"X-Tandem-Operator": "top"}
KINDS: Mapping[int, type[TandemError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    429: ResourceExhausted,
}


class GatewayPage:
    """The page at a URL. A context, which ends its connections."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """`url` is with or without `/v1`. Raises `ConfigError` for one that is none, and if
        the environment's authorities or the proxy on the way there cannot be used."""
        self.url = without_v1(check_url(url or DEFAULT_URL))
        parts = urlsplit(self.url)
        takes_proxy = may_take_proxy(parts.hostname or "", has_tls=parts.scheme == "https")
        verify = tls_context(self.url) or False
        with _usable_proxy():
            self._client = httpx2.AsyncClient(
                base_url=self.url,
                headers=list(call_metadata(api_key=api_key)),
                timeout=TIMEOUT_S,
                transport=transport,
                trust_env=takes_proxy,
                verify=verify,
            )

    async def __aenter__(self) -> GatewayPage:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ticks(self) -> AsyncGenerator[Tick]:
        """Those of one connection, until the gateway stops. Raises `Unavailable` if there is none,
        `Mismatch` if whoever answers is no gateway, and what the gateway refuses it with."""
        with _translated_errors():
            try:
                async with self._client.sse("/page/events") as events:
                    await _check(events.response)
                    async for event in events:
                        if event.data:
                            yield read_tick(event.data)
            except (NotFound, httpx2.SSEError):
                raise Mismatch(
                    f"{self.url} answers, but is no gateway of Tandem's: name one with --url URL"
                ) from None

    async def drain(self, worker_id: str, timeout_s: float) -> str:
        """Take a worker out of service: its state then. Raises `TandemError`."""
        return await self._order(worker_id, "drain", {"timeout_s": timeout_s})

    async def undrain(self, worker_id: str) -> str:
        """Put a worker back into service: its state then. Raises `TandemError`."""
        return await self._order(worker_id, "undrain", {})

    async def _order(self, worker_id: str, verb: str, body: Mapping[str, float]) -> str:
        path = f"/admin/workers/{quote(worker_id, safe='')}/{verb}"
        with _translated_errors():
            response = await self._client.post(path, json=body, headers=ORDER_HEADERS)
            await _check(response)
        state: str = response.json()["state"]
        return state


def check_url(url: str) -> str:
    """The URL. Raises `ConfigError` if it is that of no page."""
    try:
        httpx2.URL(url)
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (ValueError, httpx2.InvalidURL):
        is_good = False
    if not is_good:
        raise ConfigError(f"{url!a:.80} is no URL: write {DEFAULT_URL}", param="url")
    return url


@contextmanager
def _usable_proxy() -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ConfigError(f"the proxy of the environment cannot be used: {error}") from error


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException:
        raise Unavailable(f"no answer within {TIMEOUT_S:.0f} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unavailable(str(error) or type(error).__name__) from error


async def _check(response: httpx2.Response) -> None:
    """Raise what the gateway says is wrong."""
    if response.is_success:
        return
    await response.aread()
    kind = KINDS.get(response.status_code, Unavailable)
    raise kind(_message(response))


def _message(response: httpx2.Response) -> str:
    try:
        content: Any = response.json()
        return str(content["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
