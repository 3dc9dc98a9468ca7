"""The gateway's process: what it offers, and how it stops in the middle of its work."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from stack import WorkerProcess, free_port

from tandem.core.worker import WorkerRole
from tandem.wire.channels import open_channel


class Gateway:
    """A gateway process over two mock workers."""

    def __init__(self) -> None:
        self.http_port = free_port()
        self.grpc_address = f"127.0.0.1:{free_port()}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, prefill: str, decode: str) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            "--model=mock",
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_address.partition(':')[2]}",
            f"--prefill={prefill}",
            f"--decode={decode}",
        )
        async with self.client() as client, asyncio.timeout(60):
            while not await is_ready(client):
                await asyncio.sleep(0.05)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http_port}")


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


@asynccontextmanager
async def running_gateway() -> AsyncIterator[Gateway]:
    workers = [WorkerProcess(role, "--model=mock", "--device=mock:h100x20") for role in WorkerRole]
    gateway = Gateway()
    try:
        for worker in workers:
            await worker.start()
        await gateway.start(*(worker.address for worker in workers))
        yield gateway
    finally:
        if gateway.process and gateway.process.returncode is None:
            gateway.process.kill()
        for worker in workers:
            await worker.stop()


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
