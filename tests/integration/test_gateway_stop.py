"""The gateway's process, told to stop in the middle of its work."""

from __future__ import annotations

import asyncio
import signal
import sys

import httpx
import pytest
from stack import WorkerProcess, free_port

from tandem.core.worker import WorkerRole


async def wait_until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if (await client.get("/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_streams_end_with_an_error_event(number: signal.Signals) -> None:
    workers = [WorkerProcess(role, "--model=mock", "--device=mock:h100x20") for role in WorkerRole]
    http_port = free_port()
    for worker in workers:
        await worker.start()
    prefill, decode = workers
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "--model=mock",
        f"--http-port={http_port}",
        f"--grpc-port={free_port()}",
        f"--prefill={prefill.address}",
        f"--decode={decode.address}",
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}") as client:
            await wait_until_ready(client)
            body = {"prompt": "hello", "max_tokens": 2000, "stream": True, "ignore_eos": True}
            async with client.stream("POST", "/v1/completions", json=body) as response:
                lines = response.aiter_lines()
                assert (await anext(lines)).startswith("data: ")
                gateway.send_signal(number)
                rest = [line async for line in lines if line]
            assert '"error"' in rest[-2]
            assert "stopping" in rest[-2]
            assert rest[-1] == "data: [DONE]"
        assert await asyncio.wait_for(gateway.wait(), 10) == 0
    finally:
        if gateway.returncode is None:
            gateway.kill()
        for worker in workers:
            await worker.stop()
