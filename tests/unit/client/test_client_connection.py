"""What a client says when it does not reach a gateway."""

from __future__ import annotations

import math
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tandem import AsyncClient, Client
from tandem.core.errors import ConfigError, InvalidRequest, Unavailable

TIMEOUT_S = 10.0


async def test_why_nobody_is_reached_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Nobody listens there, and nobody can.
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(address) as client, pytest.raises(Unavailable, match="refused") as caught:
            client.models(timeout=TIMEOUT_S)
        assert address in caught.value.message
        async with AsyncClient(address) as other:
            with pytest.raises(Unavailable, match="refused"):
                await other.models(timeout=TIMEOUT_S)


def test_whoever_answers_there_and_is_no_gateway_is_nobody() -> None:
    """As a worker, whose port is easily taken for the gateway's."""
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with Client(f"127.0.0.1:{port}") as client, pytest.raises(Unavailable, match="UNIMPLEMENTED"):
        client.models(timeout=TIMEOUT_S)
    other.stop(None)


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
async def test_a_timeout_may_be_as_long_as_one_likes(timeout: float) -> None:
    """Beyond gRPC's clock, it is no deadline that is over."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(address) as client, pytest.raises(Unavailable):
            client.models(timeout=timeout)
        async with AsyncClient(address) as other:
            with pytest.raises(Unavailable):
                await other.generate(prompt="Hi", timeout=timeout)


async def test_a_timeout_that_is_no_number_is_refused() -> None:
    with Client() as client, pytest.raises(InvalidRequest) as caught:
        client.generate(prompt="Hi", timeout=math.nan)
    assert caught.value.param == "timeout"
    async with AsyncClient() as other:
        with pytest.raises(InvalidRequest):
            await other.models(timeout=math.nan)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("address", "words"), [("http://gw:50050", "without http://"), ("gw", "write host:port")]
)
def test_what_is_no_address_is_refused(
    kind: type[Client | AsyncClient], address: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        kind(address)
    assert caught.value.param == "address"
