"""How much a server takes at a time, and what it says of its health."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from up import free_ports

from tandem.process.grpc_server import GrpcServer
from tandem.wire.channels import open_channel

# A client that gives none is sent no message.
NO_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 0)]


async def test_a_call_too_many_is_refused_and_there_is_room_again() -> None:
    (port,) = free_ports(1)
    server = GrpcServer(f"127.0.0.1:{port}", max_calls=1)
    await server.start([])
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            watching = stub.Watch(request)
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
            refused = stub.Check(request)
            assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            watching.cancel()
            async with asyncio.timeout(10):
                while await stub.Check(request).code() is not grpc.StatusCode.OK:
                    pass
    finally:
        await server.stop()


async def test_a_request_too_large_is_refused() -> None:
    (port,) = free_ports(1)
    server = GrpcServer(f"127.0.0.1:{port}", max_request_bytes=1000)
    await server.start([])
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="x" * 2000)
            assert await stub.Check(request).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await server.stop()


async def test_a_watcher_that_takes_nothing_holds_nobody_up() -> None:
    (port,) = free_ports(1)
    address, request = f"127.0.0.1:{port}", health_pb2.HealthCheckRequest()
    server = GrpcServer(address)
    await server.start([])
    async with (
        grpc.aio.insecure_channel(address, options=NO_WINDOW) as channel,
        open_channel(address) as other,
        asyncio.timeout(10),
    ):
        # What is written to it has a head, which needs no window.
        await health_pb2_grpc.HealthStub(channel).Watch(request).initial_metadata()
        stub = health_pb2_grpc.HealthStub(other)
        watching = stub.Watch(request)
        statuses = [(await watching.read()).status]
        server.drain()
        statuses += [(await watching.read()).status, (await stub.Check(request)).status]
        await server.stop()
    assert statuses == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]


async def test_a_service_that_is_not_there() -> None:
    (port,) = free_ports(1)
    server = GrpcServer(f"127.0.0.1:{port}")
    await server.start([])
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="nope")
        assert await stub.Check(request).code() is grpc.StatusCode.NOT_FOUND
        watching = stub.Watch(request)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()
    await server.stop()
