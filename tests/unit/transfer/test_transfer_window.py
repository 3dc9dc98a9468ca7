"""However many transfers a slow destination keeps waiting, the sender holds few of their bytes."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic_ns

import grpc
import pytest

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.errors import TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.core.reports import Span, SpanKind
from tandem.engine.kv_copy import LateRead
from tandem.transfer.links import MAX_REGIONS_UNDER_WAY
from tandem.transfer.sender import EncodedRegion, KvSender
from tandem.transfer.servicer import SERVICE
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import kv_pb2
from tandem.wire.channels import STREAM_WINDOW_BYTES, new_server

# Regions of a layer, 2 MiB in both planes; 16 MiB in all, more than gRPC sends to somebody who does
# not read.
LAYOUT = KVLayout(num_layers=8, num_kv_heads=2, head_dim=8192, block_size=16, dtype="float32")
NUM_BYTES = LAYOUT.block_bytes
FRAME_BYTES = LAYOUT.token_bytes * LAYOUT.block_size
FULL = MAX_REGIONS_UNDER_WAY * len(Plane)
NUM_TRANSFERS = 4 * MAX_REGIONS_UNDER_WAY


class CountingPool:
    """A pool of nothing. Counts the frames that were read from it and are not sent yet. A read
    lasts until it `lets_go`."""

    def __init__(self) -> None:
        self.layout = LAYOUT
        self.num_blocks = 1
        self.num_held = self.most_held = 0
        self.changed = asyncio.Event()
        self.lets_go = threading.Event()
        self.lets_go.set()
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> LateRead:
        return LateRead(self._read)

    def _read(self, out: memoryview) -> None:
        self.lets_go.wait()
        self.count(+1)
        self._loop.call_soon_threadsafe(self.changed.set)

    def count(self, change: int) -> None:
        with self._lock:
            self.num_held += change
            self.most_held = max(self.most_held, self.num_held)


class Receiver:
    """Takes nothing, or `num_read_at_once` messages, until it may go on; then it takes all, and
    says that it is armed."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.num_read_at_once = 0
        self.server = new_server()
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"PushKv": self._handler()}),)
        )
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def _handler(self) -> grpc.RpcMethodHandler:
        return grpc.stream_unary_rpc_method_handler(
            self._push_kv, response_serializer=kv_pb2.PushKvResponse.SerializeToString
        )

    async def _push_kv(
        self, requests: AsyncIterator[bytes], context: object
    ) -> kv_pb2.PushKvResponse:
        for _ in range(self.num_read_at_once):
            await anext(requests)
        await self.goes_on.wait()
        async for _ in requests:
            pass
        return kv_pb2.PushKvResponse()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop(0)


class Side:
    """A sender of sequences of one block."""

    def __init__(self) -> None:
        self.pool = CountingPool()
        self.outcomes: asyncio.Queue[tuple[int, int | TandemError]] = asyncio.Queue()
        self.frames: list[Span] = []
        self.sender = KvSender(
            name="prefill-test",
            pool=self.pool,
            model_fingerprint="f",
            guard=StateGuard(asyncio.get_running_loop()),
            on_done=lambda *done: self.outcomes.put_nowait(done),
            on_failed=lambda *failed: self.outcomes.put_nowait(failed),
            on_span=self._on_span,
        )

    def start(self, sequence_id: int, address: str) -> None:
        blocks = SequenceBlocks(BlockAllocator(1))
        blocks.grow(1)
        self.sender.start(sequence_id, Destination(address, b"capability", 1, 0), blocks)
        transfer = self.sender.get(sequence_id)
        assert transfer is not None
        for layer in range(LAYOUT.num_layers):
            transfer.layer_done(layer, LAYOUT.block_size)
        transfer.finish(0, None, 0)

    def num_places(self, address: str) -> int:
        """How many more regions may be on the way to a destination."""
        with self.sender.links.to(address) as link:
            return link.window._value

    async def busy(self) -> None:
        """Wait until as many regions are held as may be under way to one destination."""
        async with asyncio.timeout(10):
            while self.pool.num_held < MAX_REGIONS_UNDER_WAY:
                self.pool.changed.clear()
                await self.pool.changed.wait()

    async def ended(self, count: int) -> dict[int, int | TandemError]:
        async with asyncio.timeout(10):
            return dict([await self.outcomes.get() for _ in range(count)])

    def _on_span(self, span: Span) -> None:
        if span.kind == SpanKind.FRAME_SENT:
            self.pool.count(-1)
            self.frames.append(span)


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    made = Side()
    yield made
    await made.sender.close()


async def test_a_slow_destination_holds_up_itself_alone(side: Side) -> None:
    async with receiver() as slow, receiver() as quick:
        for sequence_id in range(NUM_TRANSFERS):
            side.start(sequence_id, slow.address)
        await side.busy()
        quick.goes_on.set()
        side.start(99, quick.address)
        assert await side.ended(1) == {99: NUM_BYTES}
        assert side.pool.most_held <= FULL + 2 * len(Plane)
        assert side.num_places(slow.address) == 0
        slow.goes_on.set()
        assert await side.ended(NUM_TRANSFERS) == dict.fromkeys(range(NUM_TRANSFERS), NUM_BYTES)
        assert side.pool.num_held == 0
        assert side.pool.most_held <= FULL + 2 * len(Plane)


async def test_a_destination_holds_little_of_each_transfer_that_it_does_not_store(
    side: Side,
) -> None:
    """Also of many, by which gRPC would take the way for a long one."""
    num_transfers = 32
    async with receiver() as slow:
        slow.num_read_at_once = 3
        for sequence_id in range(num_transfers):
            side.start(sequence_id, slow.address)
        num_sent = -1
        while num_sent < (num_sent := len(side.frames)):
            await asyncio.sleep(1)
        num_bytes = sum(each.num_bytes for each in side.frames)
        most_read = slow.num_read_at_once * NUM_BYTES // (LAYOUT.num_layers * len(Plane))
        assert num_bytes <= num_transfers * (STREAM_WINDOW_BYTES + most_read)


async def test_a_frame_begins_with_its_read_and_not_in_the_queue_before_it(side: Side) -> None:
    """Of the one thread that reads: how fast KV is sent would seem many times less."""
    async with receiver() as quick:
        quick.goes_on.set()
        side.pool.lets_go.clear()
        for sequence_id in (1, 2):
            side.start(sequence_id, quick.address)
        async with asyncio.timeout(10):
            while not side.sender._thread._executor._work_queue.qsize():
                await asyncio.sleep(0)
        let_go_ns = monotonic_ns()
        side.pool.lets_go.set()
        await side.ended(2)
        first, *rest = sorted(each.start_ns for each in side.frames)
        assert first < let_go_ns <= rest[0]


@pytest.mark.parametrize("num_turns", [0, 1, 2, 3, 5, 8])
async def test_aborts_make_room(side: Side, num_turns: int) -> None:
    """Of transfers that are sent, that wait, and that have just got the room of another."""
    async with receiver() as slow:
        for sequence_id in range(NUM_TRANSFERS):
            side.start(sequence_id, slow.address)
        await side.busy()
        for sequence_id in range(NUM_TRANSFERS):
            side.sender.abort(sequence_id)
            for _ in range(num_turns):
                await asyncio.sleep(0)
        slow.goes_on.set()
        side.start(NUM_TRANSFERS, slow.address)
        assert await side.ended(1) == {NUM_TRANSFERS: NUM_BYTES}
        assert side.num_places(slow.address) == MAX_REGIONS_UNDER_WAY


async def test_a_failure_makes_room(side: Side) -> None:
    async with receiver() as slow:
        for sequence_id in range(NUM_TRANSFERS):
            side.start(sequence_id, slow.address)
        await side.busy()
        await slow.server.stop(0)
        outcomes = await side.ended(NUM_TRANSFERS)
        assert all(isinstance(outcome, TandemError) for outcome in outcomes.values())
        assert side.num_places(slow.address) == MAX_REGIONS_UNDER_WAY


async def test_a_failure_leaves_nothing_of_what_it_held(side: Side) -> None:
    """Not even until garbage is collected: on the way to who is gone one fails after another."""
    gc.collect()
    gc.disable()
    try:
        others = set(map(id, held_frames()))
        async with receiver() as slow:
            for sequence_id in range(NUM_TRANSFERS):
                side.start(sequence_id, slow.address)
            await side.busy()
            await slow.server.stop(0)
            await side.ended(NUM_TRANSFERS)
            await asyncio.sleep(0)
            assert not any(type(each) is EncodedRegion for each in gc.get_objects())
            assert others.issuperset(map(id, held_frames()))
    finally:
        gc.enable()


def held_frames() -> list[bytes]:
    """Of the whole process, what is as long."""
    held = gc.get_referents(*gc.get_objects())
    return [each for each in held if type(each) is bytes and len(each) > FRAME_BYTES]
