"""`tandem workers`, `drain` and `undrain` against a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from stack import Stack, collect, running_stack

from gateway.grpc_admin import AdminServicer
from tandem.cli.flags import GatewayFlags
from tandem.cli.workers import drain_worker, show_workers, undrain_worker
from tandem.core.errors import NotFound, Unavailable
from tandem.v1 import admin_pb2_grpc

PROMPT = tuple(range(40))


@asynccontextmanager
async def administered(stack: Stack) -> AsyncIterator[GatewayFlags]:
    """What reaches the stack's `AdminService`."""
    server = grpc.aio.server()
    admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminServicer(stack.dispatcher), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield GatewayFlags(f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


async def test_a_worker_is_drained_and_put_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    async with (
        running_stack(1, 2, devices=("mock:h100x5",)) as stack,
        administered(stack) as gateway,
    ):
        stream = stack.submit("r", PROMPT, 200)
        await stack.until(lambda: len(stream.generation.token_ids) > 1)
        holder = stream.generation.decode_worker
        await asyncio.to_thread(drain_worker, gateway, holder, 0.0, wait=True)
        assert f"{holder} holds nothing any more" in capsys.readouterr().out
        await asyncio.to_thread(show_workers, gateway)
        (line,) = [each for each in capsys.readouterr().out.splitlines() if holder in each]
        assert line.split()[1:3] == ["decode", "drained"]
        _, ended = await collect(stream)
        assert ended.served_by.decode_worker != holder
        assert ended.served_by.num_losses == 0
        await asyncio.to_thread(undrain_worker, gateway, holder)
        assert f"{holder} is serving" in capsys.readouterr().out
        for order in (
            lambda: drain_worker(gateway, "x", 0.0, wait=False),
            lambda: undrain_worker(gateway, "x"),
        ):
            with pytest.raises(NotFound, match="no worker named"):
                await asyncio.to_thread(order)


def test_without_a_gateway_it_is_said_what_to_do() -> None:
    with pytest.raises(Unavailable, match="tandem up"):
        show_workers(GatewayFlags("127.0.0.1:1"))
