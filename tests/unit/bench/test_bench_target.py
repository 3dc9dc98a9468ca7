"""Where a load goes."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx2
import pytest

from tandem.bench import tls
from tandem.bench.answer import Answer
from tandem.bench.completion_stream import Endpoint
from tandem.bench.metrics_scraper import MetricsScraper
from tandem.bench.target import Asking, asking, parse_target, served_models
from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError, TandemError, Unavailable


@pytest.mark.parametrize(
    ("text", "base", "metrics"),
    [
        ("http://host:8000", "http://host:8000", "http://host:8000/metrics"),
        ("http://host:8000/v1/", "http://host:8000", "http://host:8000/metrics"),
        (
            "https://host/some/way/v1",
            "https://host:443/some/way",
            "https://host:443/some/way/metrics",
        ),
        ("http://[::1]:80", "http://[::1]:80", "http://[::1]:80/metrics"),
        ("grpc://host", "grpc://host:50050", ""),
        ("grpcs://host", "grpcs://host:443", ""),
    ],
)
def test_urls_are_read(text: str, base: str, metrics: str) -> None:
    url = parse_target(text)
    assert (url.base, url.metrics) == (base, metrics)


@pytest.mark.parametrize(
    "text",
    ["host:8000", "ftp://host", "http://", "http://host:port", "grpcs://host/v1/x", "http://h?a"],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "address"), [("grpc://[::1]:9", "[::1]:9"), ("http://host", "host:80")]
)
def test_an_address_has_brackets_where_it_needs_them(text: str, address: str) -> None:
    url = parse_target(text)
    assert url.address == address
    head, _ = Endpoint(url.host, url.port).request(Prompt((1,), 1)).split(b"\r\n\r\n", 1)
    assert f"Host: {address}".encode() in head.split(b"\r\n")


async def test_authorities_are_read_once_and_not_for_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[ssl.SSLContext] = []
    make = tls.create_ssl_context
    monkeypatch.setattr(tls, "create_ssl_context", lambda: made.append(make()) or made[-1])
    async with asking(parse_target("https://127.0.0.1:1"), Asking("m")) as ask:
        answers = [Answer(Prompt((7,), 1), 0.0) for _ in range(3)]
        for answer in answers:
            await ask(answer)
    assert all("cannot connect" in each.error for each in answers)
    assert len(made) == 1


async def test_authorities_that_are_not_there_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        await served_models(parse_target("https://127.0.0.1:1"), None)
    # Who needs none does not look for them.
    with pytest.raises(Unavailable):
        await served_models(parse_target("http://127.0.0.1:1"), None)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx2.Response(503, json={"error": {"message": "no workers"}}), "status 503: no workers"),
        (httpx2.ReadTimeout(""), "ReadTimeout"),
    ],
)
async def test_why_there_are_no_metrics_is_never_empty(
    monkeypatch: pytest.MonkeyPatch, response: httpx2.Response | Exception, said: str
) -> None:
    async def get(_: httpx2.AsyncClient, url: str) -> httpx2.Response:
        if isinstance(response, Exception):
            raise response
        response.request = httpx2.Request("GET", url)
        return response

    monkeypatch.setattr(httpx2.AsyncClient, "get", get)
    scraper = MetricsScraper("http://h/metrics")
    async with scraper.scraping():
        pass
    assert scraper.problem == f"http://h/metrics: {said}"
    with pytest.raises(TandemError) as raised:
        await served_models(parse_target("http://h"), None)
    assert raised.value.message == f"http://h:80/v1/models: {said}"
