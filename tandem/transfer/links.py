"""The ways to the destinations of KV transfers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import grpc

from tandem.transfer.push_call import PushCall, PushKvCall
from tandem.v1 import kv_pb2
from tandem.wire.channels import open_channel
from tandem.wire.tls import ChannelTls

PUSH_KV = "/tandem.v1.KvTransferService/PushKv"
# Of all transfers to one destination. Each region has two frames, and gRPC a copy of the one that
# it sends: 24 MiB at the most, however many transfers a slow destination keeps waiting.
MAX_REGIONS_UNDER_WAY = 4
IDLE_S = 60.0
# A little more than gRPC lets pass between two attempts to connect: see `tandem.wire.channels`.
RECONNECT_S = 1.5

WrapCall = Callable[[PushKvCall], PushKvCall]
"""Puts something between a sender and its calls."""


@dataclass(slots=True)
class Link:
    """The way to one destination, which its transfers share. A place in the window is held from
    a region's encoding until it is written: a transfer has two at the most."""

    channel: grpc.aio.Channel
    wrap_call: WrapCall | None = None
    window: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_REGIONS_UNDER_WAY)
    )
    num_users: int = 0
    closing: asyncio.TimerHandle | None = None

    async def ready(self) -> None:
        """Give a connection that has failed the time to come back. Until gRPC tries it again, calls
        fail at once, also to a worker that has been started anew meanwhile."""
        if self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONNECT_S):
                    await self.channel.channel_ready()

    def push_kv(self) -> PushCall:
        """A call of the RPC."""
        call: PushKvCall = self.channel.stream_stream(
            PUSH_KV, response_deserializer=kv_pb2.PushKvResponse.FromString
        )()
        return PushCall(self.wrap_call(call) if self.wrap_call else call)


class Links:
    """All links of a sender, by address. One that no transfer has used for a while is closed: where
    workers come and go, most addresses never come again. `tls`: how to talk to all of them."""

    def __init__(
        self,
        idle_s: float = IDLE_S,
        tls: ChannelTls | None = None,
        wrap_call: WrapCall | None = None,
    ) -> None:
        self._idle_s = idle_s
        self._tls = tls
        self._wrap_call = wrap_call
        self._links: dict[str, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._links)

    @contextmanager
    def to(self, address: str) -> Iterator[Link]:
        """The link to a destination, open for as long as this context is."""
        link = self._links.get(address)
        if link is None:
            channel = open_channel(address, self._tls)
            link = self._links[address] = Link(channel, self._wrap_call)
        link.num_users += 1
        if link.closing is not None:
            link.closing.cancel()
            link.closing = None
        try:
            yield link
        finally:
            link.num_users -= 1
            if link.num_users == 0:
                link.closing = asyncio.get_running_loop().call_later(
                    self._idle_s, self._close_idle, address
                )

    async def close(self) -> None:
        """Close all. To be called when no transfer is under way."""
        for address, link in list(self._links.items()):
            if link.closing is not None:
                link.closing.cancel()
            self._close_idle(address)
        await asyncio.gather(*self._closing)

    def _close_idle(self, address: str) -> None:
        closing = asyncio.create_task(self._links.pop(address).channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
