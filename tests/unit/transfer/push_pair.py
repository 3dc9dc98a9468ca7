"""A sender and a receiver, each with a fake pool, and real gRPC between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.errors import Fenced, TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.core.reports import Span
from tandem.engine.fake.link import VirtualLink
from tandem.engine.fake.pool import FakeKVPool
from tandem.transfer.codec import FrameHeader, encode_frame
from tandem.transfer.layer_grouper import MAX_FRAME_BYTES, MIN_FRAME_BYTES
from tandem.transfer.links import PUSH_KV, WrapCall
from tandem.transfer.push_call import PushCall
from tandem.transfer.receiver import KvReceiver
from tandem.transfer.reservation import Released, Reservation
from tandem.transfer.sender import KvSender
from tandem.transfer.servicer import add_kv_transfer_service
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import kv_pb2, sampling_pb2
from tandem.wire.channels import new_server, open_channel
from tandem.wire.descriptions import layout_to_wire

BLOCK_SIZE = 4
NUM_BLOCKS = 32
FINGERPRINT = "f" * 64
VOCAB_SIZE = 100
FIRST_TOKEN_ID = 42
COMPUTE_END_NS = 1
SEQUENCE_ID = 9


class Gate:
    """Lets whoever comes pass, once closed makes them wait, and knows that one waits."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._reached = threading.Event()

    def pass_(self) -> None:
        if not self._open.is_set():
            self._reached.set()
            assert self._open.wait(10)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 10)


class NoClock:
    def now(self) -> float:
        return 0.0

    def sleep_until(self, when: float) -> None:
        raise AssertionError("a link without cost slept")


class GatedPool(FakeKVPool):
    """A fake pool whose reads and writes can be held up."""

    def __init__(self) -> None:
        super().__init__(BLOCK_SIZE, NUM_BLOCKS, link=VirtualLink(NoClock()), token_layer_s=0.0)
        self.gate = Gate()

    def read_into(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, out: memoryview
    ) -> None:
        self.gate.pass_()
        super().read_into(plane, layers, blocks, num_tokens, out)

    def write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> None:
        self.gate.pass_()
        super().write(plane, layers, blocks, num_tokens, data)


class DeviceCopy:
    """A `DevicePool`'s, under way from the start."""

    is_stored = False

    def __init__(self, pool: DevicePool, name: str, copy: Callable[..., None]) -> None:
        self._pool = pool
        self._name = name
        self._copy = copy
        self._is_over = False
        pool.log.append(f"begin {name}")

    def end(self, *out: memoryview) -> None:
        self._pool.gate.pass_()
        self._copy(*out)
        self._over("end")

    def close(self) -> None:
        if not self._is_over:
            self._over("drop")

    def _over(self, how: str) -> None:
        self._is_over = True
        self._pool.log.append(f"{how} {self._name}")


class DevicePool(FakeKVPool):
    """A fake pool as of a device with a bus: its copies are made some time between their begin and
    their end, here as late as can be. `log` is what was done in which order; ends can be held up,
    and what is named in `fails` does not begin."""

    def __init__(self) -> None:
        super().__init__(BLOCK_SIZE, NUM_BLOCKS, link=VirtualLink(NoClock()), token_layer_s=0.0)
        self.gate = Gate()
        self.log: list[str] = []
        self.fails: set[str] = set()

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> DeviceCopy:
        return DeviceCopy(
            self,
            self._name(plane, layers),
            lambda out: self.read_into(plane, layers, blocks, num_tokens, out),
        )

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> DeviceCopy:
        staged = memoryview(bytes(data))
        return DeviceCopy(
            self,
            self._name(plane, layers),
            lambda: self.write(plane, layers, blocks, num_tokens, staged),
        )

    def _name(self, plane: Plane, layers: range) -> str:
        name = f"{plane.name[0]}{layers.start}"
        if name in self.fails:
            raise RuntimeError("no kernel image")
        return name


@dataclass
class Book:
    """A `ReservationBook` of hand-made reservations."""

    layout: KVLayout
    allocator: BlockAllocator = field(default_factory=lambda: BlockAllocator(NUM_BLOCKS))
    reservations: dict[bytes, Reservation] = field(default_factory=dict)
    completed: list[Reservation] = field(default_factory=list)

    def reserve(
        self, num_tokens: int, first_token: int = 0, num_logprobs: int | None = None
    ) -> Reservation:
        """A reservation of scattered blocks, with one more for what comes after the prompt."""
        epoch = len(self.reservations) + 1
        blocks = SequenceBlocks(self.allocator)
        blocks.grow(self.layout.blocks_for(num_tokens) + 1)
        blocks.ids.reverse()
        reservation = Reservation(
            sequence_id=SEQUENCE_ID,
            transfer_id=f"capability {epoch}".encode(),
            epoch=epoch,
            layout=self.layout,
            blocks=blocks,
            first_token=first_token,
            num_tokens=num_tokens,
            num_logprobs=num_logprobs,
        )
        self.reservations[reservation.transfer_id] = reservation
        return reservation

    def reservation(self, transfer_id: bytes, epoch: int) -> Reservation:
        found = self.reservations.get(transfer_id)
        if found is None or found.epoch != epoch:
            raise Fenced("no such reservation")
        if found.blocks.released:
            raise Released("it was there")
        return found

    def reservation_complete(self, reservation: Reservation) -> None:
        assert reservation.is_complete
        if reservation not in self.completed:
            self.completed.append(reservation)


class ReceiverSide:
    """A receiver behind a server on a loopback port."""

    def __init__(self, pool: GatedPool | DevicePool) -> None:
        self.pool = pool
        self.book = Book(self.pool.layout)
        self.guard = StateGuard(asyncio.get_running_loop())
        self.lock = self.guard.lock
        self.spans: list[Span] = []
        self.receiver = KvReceiver(
            self.pool, self.book, self.guard, FINGERPRINT, VOCAB_SIZE, self.spans.append
        )
        self.server = new_server()
        add_kv_transfer_service(self.receiver, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    @property
    def num_free(self) -> int:
        return self.book.allocator.num_free

    def destination(self, reservation: Reservation) -> Destination:
        return Destination(
            self.address, reservation.transfer_id, reservation.epoch, reservation.first_token
        )

    def kv(self, reservation: Reservation) -> np.ndarray:
        return kv_of(self.pool, reservation.blocks.ids, reservation.num_tokens)

    async def quiet(self) -> None:
        """Wait until whatever was being stored is stored."""
        await asyncio.wrap_future(self.receiver._thread._executor.submit(lambda: None))

    async def push(self, *messages: bytes) -> kv_pb2.PushKvResponse:
        """Send hand-made messages; the response, or the `TandemError` that was answered."""
        async with open_channel(self.address) as channel:
            raw = channel.stream_stream(
                PUSH_KV, response_deserializer=kv_pb2.PushKvResponse.FromString
            )()
            call = PushCall(raw)
            if not messages:
                await raw.done_writing()
                raise await call.error()
            for message in messages[:-1]:
                await call.send(message)
            return await call.finish(messages[-1])


@asynccontextmanager
async def receiver_side(
    pool: GatedPool | DevicePool | None = None,
) -> AsyncIterator[ReceiverSide]:
    side = ReceiverSide(pool or GatedPool())
    await side.server.start()
    try:
        yield side
    finally:
        side.pool.gate.open()
        await side.server.stop(0)
        await asyncio.to_thread(side.receiver.close)


class SenderSide:
    """A sender with one sequence's KV in its pool."""

    def __init__(
        self,
        num_tokens: int,
        min_frame_bytes: int,
        max_frame_bytes: int,
        wrap_call: WrapCall | None = None,
        pool: GatedPool | DevicePool | None = None,
    ) -> None:
        self.pool = pool or GatedPool()
        self.pool.array[:] = np.random.default_rng(num_tokens).integers(
            0, 2**16, self.pool.array.shape, np.uint16
        )
        self.guard = StateGuard(asyncio.get_running_loop())
        self.lock = self.guard.lock
        self.allocator = BlockAllocator(NUM_BLOCKS)
        self.blocks = SequenceBlocks(self.allocator)
        self.num_tokens = num_tokens
        self.blocks.grow(self.pool.layout.blocks_for(num_tokens))
        self.spans: list[Span] = []
        self.outcomes: list[int | TandemError] = []
        self.ended = asyncio.Event()
        self.sender = KvSender(
            name="prefill-test",
            pool=self.pool,
            model_fingerprint=FINGERPRINT,
            guard=self.guard,
            on_done=self._on_end,
            on_failed=self._on_end,
            on_span=self.spans.append,
            min_frame_bytes=min_frame_bytes,
            max_frame_bytes=max_frame_bytes,
            wrap_call=wrap_call,
        )

    @property
    def kv(self) -> np.ndarray:
        return kv_of(self.pool, self.blocks.ids, self.num_tokens)

    def start(self, destination: Destination) -> None:
        self.sender.start(SEQUENCE_ID, destination, self.blocks)

    def compute(self, end: int | None = None) -> None:
        """The next chunk is computed, all layers."""
        transfer = self.sender.get(SEQUENCE_ID)
        assert transfer is not None
        for layer in range(self.pool.layout.num_layers):
            transfer.layer_done(layer, self.num_tokens if end is None else end)

    def finish(self) -> None:
        transfer = self.sender.get(SEQUENCE_ID)
        assert transfer is not None
        transfer.finish(FIRST_TOKEN_ID, None, COMPUTE_END_NS)

    def send(self, destination: Destination) -> None:
        """All of it is computed at once."""
        self.start(destination)
        self.compute()
        self.finish()

    async def outcome(self) -> int | TandemError:
        """How the transfer ended: the bytes sent, or the error. It ends only once."""
        await asyncio.wait_for(self.ended.wait(), 10)
        await asyncio.sleep(0)
        (outcome,) = self.outcomes
        return outcome

    async def quiet(self) -> None:
        """Wait until whatever was being read is read."""
        await asyncio.wrap_future(self.sender._thread._executor.submit(lambda: None))

    def _on_end(self, sequence_id: int, outcome: int | TandemError) -> None:
        assert sequence_id == SEQUENCE_ID
        self.outcomes.append(outcome)
        self.ended.set()


@asynccontextmanager
async def sender_side(
    num_tokens: int,
    min_frame_bytes: int = MIN_FRAME_BYTES,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    wrap_call: WrapCall | None = None,
    pool: GatedPool | DevicePool | None = None,
) -> AsyncIterator[SenderSide]:
    side = SenderSide(num_tokens, min_frame_bytes, max_frame_bytes, wrap_call, pool)
    try:
        yield side
    finally:
        side.pool.gate.open()
        await side.sender.close()


def kv_of(pool: FakeKVPool, blocks: Sequence[int], num_tokens: int) -> np.ndarray:
    """`[planes, layers, num_tokens, heads * head_dim]`."""
    array = pool.array[:, :, list(blocks)]
    return array.reshape(*array.shape[:2], -1, array.shape[-1])[:, :, :num_tokens]


# Hand-made messages


def opening(reservation: Reservation, mine: KVLayout, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "transfer_id": reservation.transfer_id,
        "epoch": reservation.epoch,
        "model_fingerprint": FINGERPRINT,
        "layout": layout_to_wire(mine),
        "sender": "by-hand",
    }
    opening = kv_pb2.TransferOpen(**(fields | changes))
    return kv_pb2.PushKvRequest(open=opening).SerializeToString()


def header(reservation: Reservation, **changes: Any) -> FrameHeader:
    fields: dict[str, Any] = {
        "transfer_id": reservation.transfer_id,
        "epoch": reservation.epoch,
        "number": 0,
        "plane": Plane.KEY,
        "layers": range(4),
        "first_token": 0,
        "num_tokens": reservation.num_tokens,
    }
    return FrameHeader(**(fields | changes))


def frame(reservation: Reservation, layout: KVLayout, **changes: Any) -> bytes:
    """A frame of ones (keys) or twos (values)."""
    head = header(reservation, **changes)
    items = np.full(head.num_bytes(layout) // 2, head.plane, np.uint16)
    return encode_frame(
        head, layout, lambda out: out.__setitem__(slice(None), items.view(np.uint8).data)
    )


def finish(
    num_frames: int,
    first_token: int | None = FIRST_TOKEN_ID,
    logprobs: sampling_pb2.TokenLogprobs | None = None,
) -> bytes:
    message = kv_pb2.TransferFinish(
        num_frames=num_frames, first_token_id=first_token, first_token_logprobs=logprobs
    )
    return kv_pb2.PushKvRequest(finish=message).SerializeToString()
