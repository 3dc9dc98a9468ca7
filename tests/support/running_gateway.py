"""A gateway process over mock workers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from stack import WorkerProcess, free_port

from tandem.core.worker import WorkerRole


class Gateway:
    """A gateway process over two mock workers."""

    def __init__(self, *flags: str) -> None:
        self.flags = flags
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
            *self.flags,
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
async def running_gateway(device: str = "mock:h100x20", *flags: str) -> AsyncIterator[Gateway]:
    workers = [WorkerProcess(role, "--model=mock", f"--device={device}") for role in WorkerRole]
    gateway = Gateway(*flags)
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
