"""The gateway's process: what it offers, and how it stops in the middle of its work."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from running_gateway import running_gateway

from tandem.wire.channels import open_channel


async def test_health_and_reflection() -> None:
    async with running_gateway() as gateway:
        async with open_channel(gateway.grpc_address) as channel:
            request = health_pb2.HealthCheckRequest(service="tandem.v1.InferenceService")
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(gateway.grpc_address) as sync_channel:
            listed = ProtoReflectionDescriptorDatabase(sync_channel).get_services()
        assert "tandem.v1.InferenceService" in listed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_streams_end_with_an_error_event(number: signal.Signals) -> None:
    async with running_gateway() as gateway:
        assert gateway.process
        body = {"prompt": "hello", "max_tokens": 2000, "stream": True, "ignore_eos": True}
        async with (
            gateway.client() as client,
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            gateway.process.send_signal(number)
            rest = [line async for line in lines if line]
        assert '"error"' in rest[-2]
        assert "stopping" in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
