"""A gateway process over mock workers."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from service_processes import ForkedService, start_service, while_running
from stack import READY_TIMEOUT_S, WorkerProcess, started

from tandem.bench.ports import free_port
from tandem.core.worker import WorkerRole
from tandem.process.http_probe import answers


class Gateway:
    """A gateway process over two mock workers. What it logs goes to `log`, if there is one."""

    def __init__(self, *flags: str, log: Path | None = None) -> None:
        self.flags = flags
        self.log = log
        self.http_port = free_port()
        self.grpc_address = f"127.0.0.1:{free_port()}"
        self.process: Process | ForkedService | None = None

    async def start(self, prefill: str, decode: str) -> None:
        """Start it, and wait until it serves."""
        await self.start_process(prefill, decode)
        await self.until_ready()

    async def start_process(self, prefill: str, decode: str) -> None:
        self.process = await start_service(
            "gateway",
            [
                "--model=mock",
                f"--http-port={self.http_port}",
                f"--grpc-port={self.grpc_address.partition(':')[2]}",
                f"--prefill={prefill}",
                f"--decode={decode}",
                *self.flags,
            ],
            self.log,
        )

    async def until_ready(self) -> None:
        await while_running(self._until_answered("/ready"), self)

    async def until_listening(self) -> None:
        """Wait until it answers at all."""
        await while_running(self._until_answered("/live"), self)

    async def _until_answered(self, path: str) -> None:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not await self.answers(path):
                await asyncio.sleep(0.05)

    async def answers(self, path: str) -> bool:
        """Whether a GET is answered by 200."""
        return await answers("127.0.0.1", self.http_port, path)

    async def ended(self) -> int:
        """Wait for its end: its exit status."""
        assert self.process
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await self.process.wait()

    def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http_port}", timeout=60)


@asynccontextmanager
async def running_gateway(device: str = "mock:h100x20", *flags: str) -> AsyncIterator[Gateway]:
    gateway = Gateway(*flags)
    async with running_workers(device) as workers:
        try:
            started = gateway.start(*(worker.address for worker in workers))
            await while_running(started, *workers)
            yield gateway
        finally:
            gateway.kill()


@asynccontextmanager
async def running_workers(device: str = "mock:zero") -> AsyncIterator[list[WorkerProcess]]:
    """A prefill and a decode worker that are being started."""
    workers = [WorkerProcess(role, "--model=mock", f"--device={device}") for role in WorkerRole]
    async with started(*workers):
        yield workers
