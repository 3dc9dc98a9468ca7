"""What the gateway's settings refuse before anything starts, and what is done by then."""

import httpx
import pytest
from http_client import counted_calls

from gateway.discovery import WorkerName
from gateway.service import put_together
from gateway.settings import GatewaySettings
from tandem.bench.ports import free_port
from tandem.core.address import Address
from tandem.core.errors import ConfigError
from tandem.core.worker import WorkerRole
from tandem.process.host import RESERVED_FILES
from tandem.process.settings import read_settings


def test_workers_are_read_in_order() -> None:
    settings = GatewaySettings(prefill="a:1, b:2,", decode="c:3")
    assert settings.workers() == [
        WorkerName(WorkerRole.PREFILL, Address("a", 1)),
        WorkerName(WorkerRole.PREFILL, Address("b", 2)),
        WorkerName(WorkerRole.DECODE, Address("c", 3)),
    ]


def test_without_prefill_workers_it_is_colocated() -> None:
    colocated = GatewaySettings(prefill="", decode="a:1")
    assert colocated.workers() == [WorkerName(WorkerRole.DECODE, Address("a", 1))]
    assert colocated.scheduler().roles == (WorkerRole.DECODE,)
    both = GatewaySettings(prefill="b:2", decode="a:1")
    assert both.scheduler().roles == (WorkerRole.PREFILL, WorkerRole.DECODE)


@pytest.mark.parametrize("name", ["tenants", "api_keys", "tls_dir"])
def test_an_empty_twin_of_who_may_ask_is_refused_as_what_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TANDEM_{name.upper()}", "")
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: It is set, and empty"):
        read_settings(GatewaySettings, "tandem gateway", [])


def test_an_empty_twin_of_prefill_is_no_prefill_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_PREFILL", "")
    assert [each.role for each in GatewaySettings().workers()] == [WorkerRole.DECODE]


@pytest.mark.parametrize("prefill", ["", "b:2"])
def test_an_unknown_batching_is_refused_by_name(prefill: str) -> None:
    settings = GatewaySettings(prefill=prefill, decode="a:1", batching="nonesuch")
    with pytest.raises(ConfigError, match="chunked, decode-first, prefill-first"):
        settings.scheduler()


@pytest.mark.parametrize(
    "text", ["a", "a:", ":1", "a:0", "a:65536", "a:-1", "a:b", "::1:1", "[::1]", "a..b:1", "a:²"]
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port") as caught:
        GatewaySettings(prefill=text).workers()
    assert caught.value.param == "prefill"


@pytest.mark.parametrize(
    ("prefill", "decode"), [("", ""), ("a:1", " , "), ("a:1", "a:1"), ("a:1,a:1", "b:2")]
)
def test_missing_and_doubled_addresses_are_refused(prefill: str, decode: str) -> None:
    with pytest.raises(ConfigError):
        GatewaySettings(prefill=prefill, decode=decode).workers()


def test_there_are_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.settings.raise_open_files", lambda: 1024)
    assert GatewaySettings(max_connections=5000).http_limits().max_connections == 768
    limits = GatewaySettings(max_connections=500, max_header_bytes=2048).http_limits()
    assert (limits.max_connections, limits.max_header_bytes) == (500, 2048)
    assert GatewaySettings(keep_alive_s=30).http_limits().keep_alive_s == 30


def test_a_gateway_that_may_have_no_file_for_a_client_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.settings.raise_open_files", lambda: RESERVED_FILES)
    with pytest.raises(ConfigError, match=r"256 files .*: ulimit -n 65536"):
        GatewaySettings().http_limits()


async def test_what_the_api_is_like_was_worked_out_before_anybody_asks() -> None:
    """It takes a tenth of a second, for which no token would go out."""
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    gateway = put_together(GatewaySettings(model="mock", **ports))
    try:
        transport = httpx.ASGITransport(gateway.http_server.config.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            with counted_calls() as num_calls:
                response = await client.get("/openapi.json")
        assert "/tokenize" in response.json()["paths"]
        assert num_calls() < 20_000
    finally:
        gateway.listener.close()
        gateway.frontend.close()
        gateway.timeline.close()


def test_a_delay_that_leaves_no_time_to_drain_is_refused() -> None:
    settings = GatewaySettings(decode="a:1", drain_delay=8.0, drain_timeout=8.0)
    with pytest.raises(ConfigError, match="part of --drain-timeout, and less"):
        put_together(settings)
