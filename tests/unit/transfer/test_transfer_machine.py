"""The transfer protocol as a state machine: streams of right and wrong messages, releases and
closings in any order. What a model says must be refused is refused; what is armed is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from push_pair import (
    FINGERPRINT,
    FIRST_TOKEN_ID,
    NUM_BLOCKS,
    VOCAB_SIZE,
    Book,
    GatedPool,
    finish,
    frame,
    kv_of,
    opening,
)

from tandem.core.errors import DataLoss, Fenced, TandemError
from tandem.core.kv import Plane
from tandem.transfer.receiver import KvReceiver
from tandem.transfer.reservation import Reservation
from tandem.transfer.state_guard import StateGuard

NUM_TOKENS = 6
LAYERS = (range(0, 2), range(2, 4))
REGIONS = [(plane, layers) for plane in Plane for layers in LAYERS]


class Stream:
    """One open `PushKv` call, message by message."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, receiver: KvReceiver, reservation: Reservation
    ) -> None:
        self.reservation = reservation
        self.num_frames = 0
        self.is_good = True
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._call = loop.create_task(receiver.receive(self._read()))

    async def _read(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            yield message

    def send(self, message: bytes) -> None:
        self._messages.put_nowait(message)

    async def end(self, message: bytes | None) -> Any:
        """Its outcome, after a last message or without one."""
        self._messages.put_nowait(message)
        try:
            return await self._call
        except TandemError as error:
            return error


class TransferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pool = GatedPool()
        self.book = Book(self.pool.layout)
        self.guard = StateGuard(self.loop)
        self.receiver = KvReceiver(
            self.pool, self.book, self.guard, FINGERPRINT, VOCAB_SIZE, lambda _: None
        )
        self.streams: list[Stream] = []
        self.covered: dict[bytes, set[tuple[Plane, range]]] = {}
        self.open: dict[bytes, Reservation] = {}
        self.closed: list[Reservation] = []

    def teardown(self) -> None:
        for stream in self.streams:
            self.loop.run_until_complete(stream.end(None))
        for reservation in self.book.reservations.values():
            reservation.blocks.release()
        self.receiver.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        assert self.book.allocator.num_free == NUM_BLOCKS
        assert not self.guard.crash.done()
        self.loop.close()

    @precondition(lambda self: self.book.allocator.num_free > 4)
    @rule()
    def reserve(self) -> None:
        reservation = self.book.reserve(NUM_TOKENS)
        self.open[reservation.transfer_id] = reservation
        self.covered[reservation.transfer_id] = set()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(list(self.open.values())))
        stream = Stream(self.loop, self.receiver, reservation)
        stream.send(opening(reservation, self.pool.layout))
        self._settle()
        self.streams.append(stream)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), region=st.sampled_from(REGIONS))
    def send(self, data: st.DataObject, region: tuple[Plane, range]) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        stream.send(self._frame(stream, region))
        self._settle()
        reservation = stream.reservation
        # A complete reservation takes no more, from anybody.
        stream.is_good = (
            stream.is_good
            and reservation.transfer_id in self.open
            and reservation not in self.book.completed
        )
        stream.num_frames += 1
        if stream.is_good:
            self.covered[reservation.transfer_id].add(region)

    @precondition(lambda self: self.streams)
    @rule(
        data=st.data(),
        region=st.sampled_from(REGIONS),
        harm=st.sampled_from(["bytes", "number", "epoch", "range", "cut"]),
    )
    def harm(self, data: st.DataObject, region: tuple[Plane, range], harm: str) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        changes: dict[str, Any] = {
            "number": {"number": stream.num_frames + 1},
            "epoch": {"epoch": 99},
            "range": {"first_token": 8},
        }.get(harm, {})
        message = self._frame(stream, region, **changes)
        if harm == "bytes":
            message = message[:-1] + bytes([message[-1] ^ 1])
        elif harm == "cut":
            message = message[:-3]
        stream.send(message)
        self._settle()
        stream.num_frames += 1
        stream.is_good = False

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        outcome = self.loop.run_until_complete(stream.end(finish(stream.num_frames)))
        reservation = stream.reservation
        if not stream.is_good:
            assert isinstance(outcome, DataLoss | Fenced)
        elif reservation.transfer_id not in self.open:
            assert isinstance(outcome, Fenced)
        else:
            whole = len(self.covered[reservation.transfer_id]) == len(REGIONS)
            assert isinstance(outcome, DataLoss) is not whole
            assert (reservation in self.book.completed) is whole

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        assert isinstance(self.loop.run_until_complete(stream.end(None)), TandemError)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["release", "close"]))
    def give_up(self, data: st.DataObject, how: str) -> None:
        reservation = self.open.pop(data.draw(st.sampled_from(list(self.open))))
        if how == "release":
            reservation.blocks.release()
        else:
            reservation.close()
            self.closed.append(reservation)

    @precondition(lambda self: self.closed)
    @rule()
    def end_closed(self) -> None:
        """The sequence whose prompt was computed on the decode worker itself ends."""
        self.closed.pop(0).blocks.release()

    @invariant()
    def what_is_armed_is_right(self) -> None:
        for reservation in self.book.completed:
            if reservation.blocks.ids:
                kv = kv_of(self.pool, reservation.blocks.ids, NUM_TOKENS)
                assert all((kv[plane - 1] == plane).all() for plane in Plane)
                assert reservation.first_token_id == FIRST_TOKEN_ID

    @invariant()
    def blocks_are_held_or_free(self) -> None:
        held = [
            block
            for reservation in self.book.reservations.values()
            for block in reservation.blocks.ids
        ]
        assert len(held) == len(np.unique(held))
        assert len(held) + self.book.allocator.num_free == NUM_BLOCKS

    def _frame(self, stream: Stream, region: tuple[Plane, range], **changes: Any) -> bytes:
        plane, layers = region
        fields = {"number": stream.num_frames, "plane": plane, "layers": layers, **changes}
        return frame(stream.reservation, self.pool.layout, **fields)

    def _settle(self) -> None:
        """Let what was sent be read, and stored."""

        async def settled() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                await asyncio.wrap_future(self.receiver._thread._executor.submit(lambda: None))

        self.loop.run_until_complete(settled())


TestTransferMachine = TransferMachine.TestCase
TestTransferMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
