"""How much a server takes at a time, and what it says of its health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.bench.ports import free_port
from tandem.core.errors import ConfigError
from tandem.process.grpc_server import GrpcServer
from tandem.wire.channels import open_channel

# A client that gives none is sent no message.
NO_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 0)]
REQUEST = health_pb2.HealthCheckRequest()
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


@asynccontextmanager
async def serving(**limits: int) -> AsyncIterator[tuple[GrpcServer, str]]:
    """A server and its address."""
    address = f"127.0.0.1:{free_port()}"
    server = GrpcServer(address, **limits)
    await server.start([])
    try:
        yield server, address
    finally:
        await server.stop()


async def test_a_call_too_many_is_refused_and_there_is_room_again() -> None:
    async with serving(max_calls=1) as (_, address), open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(REQUEST)
        assert (await watching.read()).status == SERVING
        assert await stub.Check(REQUEST).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watching.cancel()
        async with asyncio.timeout(10):
            while await stub.Check(REQUEST).code() is not grpc.StatusCode.OK:
                pass


async def test_a_port_in_use_is_told_with_its_setting() -> None:
    async with serving() as (_, address):
        with pytest.raises(ConfigError, match=f"{address}: Address already in use") as caught:
            await GrpcServer(address, param="grpc_port").start([])
    assert caught.value.param == "grpc_port"


async def test_a_host_that_is_not_this_one_is_no_port_in_use() -> None:
    with pytest.raises(ConfigError, match="is no address of this machine") as caught:
        await GrpcServer(f"192.0.2.1:{free_port()}").start([])
    assert caught.value.param == "host"


async def test_a_request_too_large_is_refused() -> None:
    async with serving(max_request_bytes=1000) as (_, address), open_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service="x" * 2000)
        refused = health_pb2_grpc.HealthStub(channel).Check(request)
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_watcher_that_takes_nothing_holds_nobody_up() -> None:
    async with (
        serving() as (server, address),
        grpc.aio.insecure_channel(address, options=NO_WINDOW) as channel,
        open_channel(address) as other,
        asyncio.timeout(10),
    ):
        # What is written to it has a head, which needs no window.
        await health_pb2_grpc.HealthStub(channel).Watch(REQUEST).initial_metadata()
        stub = health_pb2_grpc.HealthStub(other)
        watching = stub.Watch(REQUEST)
        statuses = [(await watching.read()).status]
        server.drain()
        statuses += [(await watching.read()).status, (await stub.Check(REQUEST)).status]
        await server.stop()
    assert statuses == [SERVING, NOT_SERVING, NOT_SERVING]


async def test_a_service_that_is_not_there() -> None:
    async with serving() as (_, address), open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="nope")
        assert await stub.Check(request).code() is grpc.StatusCode.NOT_FOUND
        watching = stub.Watch(request)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()
