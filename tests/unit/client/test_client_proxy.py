"""Which clients go by the proxy that the environment names."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from socketserver import StreamRequestHandler, TCPServer

import pytest

from tandem import AsyncClient, Client
from tandem.cli.top.gateway_page import GatewayPage
from tandem.core.errors import ConfigError, DeadlineExceeded, Unavailable

TIMEOUT_S = 5.0
# No name server knows it.
ELSEWHERE = "gateway.invalid"
TARGETS = [
    (ELSEWHERE, True, True),
    (ELSEWHERE, False, False),
    ("127.0.0.1", True, False),
    ("127.0.0.1", False, False),
    ("[::1]", False, False),
    ("localhost", True, False),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What a proxy is asked for, which it refuses."""
    lines: list[bytes] = []

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            lines.append(self.rfile.readline())

    with TCPServer(("127.0.0.1", 0), Handler) as server:
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield lines
        server.shutdown()


@pytest.mark.parametrize(("host", "tls", "takes_it"), TARGETS)
async def test_only_tls_to_elsewhere_goes_by_a_proxy(
    asked: list[bytes], host: str, tls: bool, takes_it: bool
) -> None:
    connect = {f"CONNECT {host}:1 HTTP/1.1".encode()} if takes_it else set()
    with Client(f"{host}:1", tls=tls) as client, suppress(Unavailable, DeadlineExceeded):
        client.models(timeout=TIMEOUT_S)
    assert {line.strip() for line in asked} == connect
    asked.clear()
    async with AsyncClient(f"{host}:1", tls=tls) as other:
        with suppress(Unavailable, DeadlineExceeded):
            await other.models(timeout=TIMEOUT_S)
    assert {line.strip() for line in asked} == connect


@pytest.mark.parametrize(("host", "tls", "takes_it"), TARGETS)
async def test_nor_does_a_page_otherwise(
    asked: list[bytes], host: str, tls: bool, takes_it: bool
) -> None:
    async with GatewayPage(f"http{'s' * tls}://{host}:1", None) as page:
        with suppress(Unavailable):
            await page.undrain("decode-0")
    assert bool(asked) == takes_it


UNUSABLE = ["socks://127.0.0.1:9", "socks5h://127.0.0.1:9", "http://127.0.0.1:port"]


@pytest.mark.parametrize("proxy", UNUSABLE)
def test_a_page_elsewhere_says_that_the_proxy_is_of_no_use(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigError, match="proxy of the environment"):
        GatewayPage(f"https://{ELSEWHERE}", None)
    assert GatewayPage(f"http://{ELSEWHERE}", None).url == f"http://{ELSEWHERE}"
