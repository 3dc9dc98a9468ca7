"""How much a server takes at a time."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from up import free_ports

from tandem.process.grpc_server import GrpcServer
from tandem.wire.channels import open_channel


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
