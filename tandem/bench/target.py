"""Whoever is put under load: an OpenAI endpoint, or Tandem's gRPC API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import httpx2

from tandem.bench.closed_loop import Ask
from tandem.bench.completion_stream import CHAT, COMPLETIONS, Endpoint, complete
from tandem.bench.grpc_stream import generate
from tandem.bench.http_head import authorization
from tandem.bench.refusal import http_error_text
from tandem.bench.tls import tls_context
from tandem.client import AsyncClient
from tandem.core.address import Address, without_v1
from tandem.core.errors import ConfigError, NotFound, TandemError, Unauthenticated, Unavailable

PORTS = {"http": 80, "https": 443, "grpc": 50050, "grpcs": 443}
TIMEOUT_S = 10.0
UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class TargetUrl:
    """`http`, `https`, `grpc` or `grpcs`, which is gRPC by TLS. `prefix` is what comes before
    `/v1`."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def is_grpc(self) -> bool:
        return self.scheme in ("grpc", "grpcs")

    @property
    def has_tls(self) -> bool:
        return self.scheme in ("https", "grpcs")

    @property
    def address(self) -> str:
        return str(Address(self.host, self.port))

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.address}{self.prefix}"

    @property
    def metrics(self) -> str:
        """Where an HTTP server usually has its metrics; empty if there is no saying."""
        return "" if self.is_grpc else f"{self.base}/metrics"


def parse_target(text: str) -> TargetUrl:
    """`http://host:8000`, with or without `/v1`, `grpc://host:50050` or `grpcs://host`. Raises
    `ConfigError`."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ConfigError(f"no URL: {text!r:.80}", param="url") from None
    if url.scheme not in PORTS or not url.hostname or url.query or url.fragment:
        raise ConfigError(
            f"no URL: {text!r:.80}; write http://HOST:PORT or grpc://HOST:PORT", param="url"
        )
    prefix = without_v1(url.path)
    target = TargetUrl(url.scheme, url.hostname, port or PORTS[url.scheme], prefix)
    if target.is_grpc and prefix:
        raise ConfigError("a gRPC address has no path", param="url")
    return target


@dataclass(frozen=True, slots=True)
class Asking:
    """How requests are put: to which model, as a chat or a completion, and whether answers go on
    past the model's own end."""

    model: str
    is_chat: bool = False
    ignore_eos: bool = True
    api_key: str | None = None


async def served_models(url: TargetUrl, api_key: str | None) -> list[str]:
    """The names of what is served. Raises `Unavailable` if nobody answers, `Unauthenticated` if
    whoever does asks for a key, and another `TandemError` for what is no list of models."""
    if url.is_grpc:
        async with AsyncClient(url.address, api_key=api_key, tls=url.has_tls) as client:
            return [each.id for each in await client.models(timeout=TIMEOUT_S)]
    verify = tls_context(url.base) or False
    try:
        async with httpx2.AsyncClient(
            timeout=TIMEOUT_S, headers=authorization(api_key), trust_env=False, verify=verify
        ) as client:
            response = await client.get(f"{url.base}/v1/models")
            response.raise_for_status()
            return [str(each["id"]) for each in response.json()["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        kind = _kind_of(error)
        raise kind(f"{url.base}/v1/models: {http_error_text(error)}") from error


def _kind_of(error: Exception) -> type[TandemError]:
    match error:
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return Unavailable
        case httpx2.HTTPStatusError(response=response) if response.status_code == UNAUTHORIZED:
            return Unauthenticated
    return TandemError


async def find_model(url: TargetUrl, api_key: str | None, wanted: str) -> tuple[str, list[str]]:
    """The model to ask for, and all that are served as far as that is known. Raises `Unavailable`
    if nobody answers, and `TandemError` if none is wanted by name, and the server tells none."""
    try:
        served = await served_models(url, api_key)
    except Unavailable:
        raise
    except TandemError:
        if not wanted:
            raise
        served = []
    if not wanted and not served:
        raise NotFound(f"{url.base} serves no model")
    return wanted or served[0], served


@asynccontextmanager
async def asking(url: TargetUrl, how: Asking) -> AsyncIterator[Ask]:
    """What fills in an answer to its prompt, within the event loop that enters this."""
    if url.is_grpc:
        async with AsyncClient(url.address, api_key=how.api_key, tls=url.has_tls) as client:
            yield partial(
                generate, client, how.model, is_chat=how.is_chat, ignore_eos=how.ignore_eos
            )
        return
    endpoint = Endpoint(
        url.host,
        url.port,
        how.model,
        url.prefix + (CHAT if how.is_chat else COMPLETIONS),
        api_key=how.api_key,
        tls=tls_context(url.base),
        is_exact=False,
        ignore_eos=how.ignore_eos,
    )
    yield partial(complete, endpoint)
