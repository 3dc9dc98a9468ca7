"""How `tandem top` reads a gateway's feed and gives it orders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import orjson
import pytest
from top_ticks import tick_json, worker

from tandem.cli.top.gateway_page import GatewayPage
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

Answer = Callable[[httpx2.Request], httpx2.Response]
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


def page(answer: Answer, api_key: str | None = None) -> GatewayPage:
    return GatewayPage("http://gateway:8000", api_key, httpx2.MockTransport(answer))


def error(status: int, message: str) -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"message": message}})


async def read(answer: Answer) -> list[int]:
    async with page(answer) as gateway:
        return [tick.now async for tick in gateway.ticks()]


async def test_ticks_come_until_the_gateway_stops() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        told = [orjson.dumps(tick_json(worker("decode-0"), now=now)) for now in (1, 2)]
        content = b"retry: 1000\n\n" + b"".join(b"data: %s\n\n" % each for each in told)
        return httpx2.Response(200, headers=EVENTS, content=content)

    async with page(answer, "secret") as gateway:
        assert [tick.now async for tick in gateway.ticks()] == [1, 2]
    assert asked[0].url == "http://gateway:8000/page/events"
    assert asked[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (lambda _: error(401, "a key is needed"), Unauthenticated, "a key is needed"),
        (lambda _: error(429, "too many look"), ResourceExhausted, "too many look"),
        (lambda _: error(503, "stopping"), Unavailable, "stopping"),
        (lambda _: httpx2.Response(502, text="<html>"), Unavailable, "HTTP 502"),
        (lambda _: httpx2.Response(200, text="<html>"), Mismatch, "no gateway of Tandem's"),
        (lambda _: httpx2.Response(404, text="<html>"), Mismatch, "no gateway of Tandem's"),
        (
            lambda _: httpx2.Response(200, headers=EVENTS, content=b"data: {}\n\n"),
            Mismatch,
            "another version",
        ),
    ],
)
async def test_what_is_wrong_is_said(answer: Answer, kind: type[TandemError], message: str) -> None:
    with pytest.raises(kind, match=message):
        await read(answer)


async def test_a_gateway_that_is_not_there_is_unavailable() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused")

    with pytest.raises(Unavailable, match="connection refused"):
        await read(refuse)

    def keep_silent(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("")

    with pytest.raises(Unavailable, match="no answer within 5 s"):
        await read(keep_silent)


async def test_orders_are_what_no_form_can_send() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={"state": "draining"})

    async with page(answer) as gateway:
        assert await gateway.drain("decode/0", 30.0) == "draining"
        await gateway.undrain("decode-0")
    drain, undrain = asked
    assert drain.url.raw_path == b"/admin/workers/decode%2F0/drain"
    assert orjson.loads(drain.content) == {"timeout_s": 30.0}
    assert undrain.url.path == "/admin/workers/decode-0/undrain"
    for request in asked:
        assert request.method == "POST"
        assert request.headers["content-type"] == "application/json"
        assert "x-tandem-operator" in request.headers


@pytest.mark.parametrize(("status", "kind"), [(403, PermissionDenied), (404, NotFound)])
async def test_an_order_may_be_refused(status: int, kind: type[TandemError]) -> None:
    async with page(lambda _: error(status, "no")) as gateway:
        with pytest.raises(kind, match="no"):
            await gateway.undrain("decode-0")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "//host",
        "http://host:99999",
        "http://host:x",
        "http://[::1",
        "http://host/\x01",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL"):
        GatewayPage(url, None)


@pytest.mark.parametrize("url", ["http://host:8000/v1", "http://host:8000/v1/"])
def test_a_url_may_be_that_of_openais_clients(url: str) -> None:
    assert GatewayPage(url, None).url == "http://host:8000"


def test_a_gateway_on_this_machine_need_not_be_named() -> None:
    for url in (None, ""):
        assert GatewayPage(url, None).url == "http://127.0.0.1:8000"


def test_authorities_that_cannot_be_read_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert GatewayPage("http://host", None).url == "http://host"
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: .*none\.pem"):
        GatewayPage("https://host", None)
