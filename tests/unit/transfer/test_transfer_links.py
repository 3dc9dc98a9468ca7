"""Links are shared while they are used, and closed when they have not been for a while; what breaks
on them is nobody's fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import pytest
from push_pair import sender_side
from structlog.testing import capture_logs

from tandem.bench.ports import free_port
from tandem.core.commands import Destination
from tandem.core.errors import TandemError
from tandem.transfer.links import Link, Links
from tandem.transfer.servicer import SERVICE
from tandem.wire.channels import new_server

ADDRESS = "127.0.0.1:1"


async def closed(links: Links, num_left: int) -> None:
    async with asyncio.timeout(10):
        while len(links) > num_left:
            await asyncio.sleep(0.001)


async def test_a_link_is_shared_and_closed_once_nobody_has_used_it_for_a_while() -> None:
    links = Links(idle_s=0.01)
    with links.to(ADDRESS) as first:
        with links.to(ADDRESS) as second:
            assert first is second
        await asyncio.sleep(0.03)
        assert len(links) == 1
    await closed(links, 0)
    with links.to(ADDRESS) as third:
        assert third is not first
    await links.close()


async def test_a_link_that_is_used_again_stays() -> None:
    links = Links(idle_s=0.01)
    with links.to(ADDRESS) as first:
        pass
    with links.to(ADDRESS) as again:
        await asyncio.sleep(0.03)
        assert again is first and len(links) == 1
    await links.close()
    assert not len(links)


async def test_each_of_many_addresses_is_let_go() -> None:
    links = Links(idle_s=0.001)
    for port in range(1, 200):
        with links.to(f"127.0.0.1:{port}"):
            pass
    await closed(links, 0)


async def test_a_destination_that_is_back_is_reached_though_it_could_not_be_just_now() -> None:
    """gRPC waits longer after each attempt, and fails calls meanwhile."""
    port = free_port()
    destination = Destination(f"127.0.0.1:{port}", b"x", 1, 0)
    links = Links()
    with links.to(destination.address) as link:
        for _ in range(4):
            with suppress(TimeoutError):
                await asyncio.wait_for(link.channel.channel_ready(), 0.4)
        assert link.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        server = new_server()
        server.add_insecure_port(destination.address)
        await server.start()
        await link.ready()
        assert link.channel.get_state() is grpc.ChannelConnectivity.READY
        await server.stop(0)
    await links.close()


async def test_a_destination_that_stays_away_is_waited_for_no_longer_than_it_may_take() -> None:
    links = Links()
    with links.to(ADDRESS) as link:
        for _ in range(2):
            await asyncio.wait_for(link.ready(), 10)
            with suppress(TimeoutError):
                await asyncio.wait_for(link.channel.channel_ready(), 0.1)
        assert link.channel.get_state() is not grpc.ChannelConnectivity.READY
    await links.close()


async def test_the_log_says_which_edge_is_broken() -> None:
    async with sender_side(8) as sender:
        with capture_logs() as logs:
            sender.send(Destination(ADDRESS, b"x", 1, 0))
            error = await sender.outcome()
        (failure,) = logs
        assert failure["event"] == "transfer failed"
        assert failure["destination"] == ADDRESS
        assert failure["reason"] == "UNAVAILABLE"
        # gRPC's own words, which go nowhere else.
        assert ADDRESS in failure["details"]
        assert ADDRESS not in str(error)
        # Its link is let go of as well.
        with sender.sender.links.to(ADDRESS) as link:
            assert link.num_users == 1


@pytest.mark.parametrize("code", ["INTERNAL", "CANCELLED", "UNKNOWN", "PERMISSION_DENIED", "OK"])
async def test_what_somebody_in_between_says_is_a_broken_link(code: str) -> None:
    """A proxy, or gRPC itself: it is not the receiver's word on what was sent."""

    async def push_kv(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await anext(requests)
        if code != "OK":
            await context.abort(grpc.StatusCode[code], "RST_STREAM with error code 2")

    server = new_server()
    handler = grpc.stream_stream_rpc_method_handler(push_kv)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"PushKv": handler}),)
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with sender_side(8) as sender:
        sender.send(Destination(address, b"x", 1, 0))
        error = await sender.outcome()
    await server.stop(0)
    assert isinstance(error, TandemError)
    assert (error.reason, error.message) == ("UNAVAILABLE", f"the call ended with {code}")


class FailedChannel:
    """That comes back when it is told to."""

    def __init__(self) -> None:
        self.is_back = asyncio.Event()

    def get_state(self) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def channel_ready(self) -> None:
        await self.is_back.wait()


@pytest.mark.parametrize("num_turns", range(5))
async def test_who_waits_for_a_link_and_is_cancelled_as_it_comes_back_ends(num_turns: int) -> None:
    channel = FailedChannel()

    async def wait() -> None:
        await Link(channel).ready()  # type: ignore[arg-type]
        await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    channel.is_back.set()
    for _ in range(num_turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=10)
    assert waiting.cancelled()
