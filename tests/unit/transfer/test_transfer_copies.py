"""In which order a transfer's copies begin and end on a device, and what is held meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import Any, cast

import numpy as np
import pytest
from push_pair import (
    FIRST_TOKEN_ID,
    NUM_BLOCKS,
    SEQUENCE_ID,
    DevicePool,
    SenderSide,
    receiver_side,
    sender_side,
)

from tandem.core.errors import TandemError, Unavailable
from tandem.core.kv import Plane
from tandem.transfer.codec import FrameHeader, decode_request
from tandem.transfer.copy_thread import CopyThread
from tandem.transfer.links import MAX_REGIONS_UNDER_WAY
from tandem.transfer.push_call import PushKvCall
from tandem.transfer.sender import EncodedRegion

NUM_TOKENS = 8


def encode(side: SenderSide, layer: int) -> Awaitable[tuple[int, list[bytes]]]:
    """One layer's region, as a transfer has it encoded."""
    headers = [
        FrameHeader(b"capability", 1, number, plane, range(layer, layer + 1), 0, NUM_TOKENS)
        for number, plane in enumerate(Plane)
    ]
    return asyncio.ensure_future(side.sender.encode(side.blocks, headers))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def queued(thread: CopyThread, count: int) -> None:
    await until(lambda: len(thread._waiting) >= count)


async def test_both_planes_and_the_next_region_are_under_way_while_one_is_written_out() -> None:
    async with sender_side(NUM_TOKENS, pool=DevicePool()) as side:
        side.pool.gate.close()
        encoding = [encode(side, 0)]
        await side.pool.gate.reached()
        encoding += [encode(side, layer) for layer in (1, 2)]
        await queued(side.sender._thread, 2)
        side.pool.gate.open()
        regions = [frames for _, frames in await asyncio.gather(*encoding)]
        assert side.pool.log == [
            *("begin K0", "begin V0", "end K0", "end V0"),
            *("begin K1", "begin V1"),
            *("begin K2", "begin V2"),
            *("end K1", "end V1"),
            *("end K2", "end V2"),
        ]
        for layer, frames in enumerate(regions):
            for plane, raw in enumerate(frames):
                items = decode_request(raw).verified_items(side.pool.layout)
                assert np.array_equal(
                    np.frombuffer(items, np.uint16).reshape(NUM_TOKENS, -1), side.kv[plane, layer]
                )
        with side.lock:
            side.blocks.release()
        assert side.allocator.num_free == NUM_BLOCKS


async def test_what_was_begun_is_dropped_when_its_other_plane_does_not_begin() -> None:
    pool = DevicePool()
    pool.fails = {"V1"}
    async with sender_side(NUM_TOKENS, pool=pool) as side:
        pool.gate.close()
        encoding = [encode(side, 0)]
        await pool.gate.reached()
        encoding += [encode(side, layer) for layer in (1, 2)]
        await queued(side.sender._thread, 2)
        pool.gate.open()
        ends = await asyncio.gather(*encoding, return_exceptions=True)
        assert [type(end) for end in ends] == [tuple, RuntimeError, tuple]
        assert pool.log[4:6] == ["begin K1", "drop K1"]
        with side.lock:
            side.blocks.release()
        assert side.allocator.num_free == NUM_BLOCKS


async def test_a_sequence_that_is_dropped_while_it_is_read_keeps_its_blocks_until_that_ends() -> (
    None
):
    async with receiver_side() as receiver, sender_side(NUM_TOKENS, pool=DevicePool()) as sender:
        sender.pool.gate.close()
        sender.start(receiver.destination(receiver.book.reserve(NUM_TOKENS)))
        sender.compute()
        await sender.pool.gate.reached()
        sender.sender.abort(SEQUENCE_ID)
        with sender.lock:
            sender.blocks.release()
        await asyncio.sleep(0.01)
        assert sender.allocator.num_free < NUM_BLOCKS
        sender.pool.gate.open()
        await sender.quiet()
        assert sender.allocator.num_free == NUM_BLOCKS
        assert {each.split()[0] for each in sender.pool.log} == {"begin", "end"}


class HeldCall:
    """A call that writes its opening, and nothing more until it may go on."""

    def __init__(self, call: PushKvCall, goes_on: asyncio.Event) -> None:
        self._call = call
        self._goes_on = goes_on
        self._num_written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def write(self, message: bytes) -> None:
        if self._num_written:
            await self._goes_on.wait()
        self._num_written += 1
        await self._call.write(message)


@pytest.mark.parametrize("is_aborted", [False, True])
async def test_the_next_region_is_encoded_while_one_is_written(is_aborted: bool) -> None:
    goes_on = asyncio.Event()
    async with (
        receiver_side() as receiver,
        sender_side(
            NUM_TOKENS,
            min_frame_bytes=1,
            pool=DevicePool(),
            wrap_call=lambda call: cast(PushKvCall, HeldCall(call, goes_on)),
        ) as sender,
    ):
        reservation = receiver.book.reserve(NUM_TOKENS)
        sender.send(receiver.destination(reservation))
        await until(lambda: "end V1" in sender.pool.log)
        await asyncio.sleep(0.01)
        assert sender.pool.log[-1] == "end V1"
        with sender.sender.links.to(receiver.address) as link:
            assert link.window._value == MAX_REGIONS_UNDER_WAY - 2
            if is_aborted:
                sender.sender.abort(SEQUENCE_ID)
            goes_on.set()
            if not is_aborted:
                assert isinstance(await sender.outcome(), int)
                assert np.array_equal(receiver.kv(reservation), sender.kv)
            await until(lambda: link.window._value == MAX_REGIONS_UNDER_WAY)


async def test_what_is_written_is_not_kept_while_the_next_layer_is_computed() -> None:
    """By each of a batch's transfers, of which the window knows nothing by then."""
    async with receiver_side() as receiver, sender_side(NUM_TOKENS, min_frame_bytes=1) as sender:
        sender.start(receiver.destination(receiver.book.reserve(NUM_TOKENS)))
        transfer = sender.sender.get(SEQUENCE_ID)
        assert transfer is not None
        transfer.layer_done(0, NUM_TOKENS)
        await until(lambda: len(sender.spans) == len(Plane))
        gc.collect()
        assert not any(type(each) is EncodedRegion for each in gc.get_objects())


async def test_kv_that_is_still_on_its_way_into_the_pool_arms_nobody() -> None:
    async with (
        receiver_side(DevicePool()) as receiver,
        sender_side(NUM_TOKENS, pool=DevicePool()) as sender,
    ):
        reservation = receiver.book.reserve(NUM_TOKENS)
        missing = reservation.num_missing
        receiver.pool.gate.close()
        sender.send(receiver.destination(reservation))
        await receiver.pool.gate.reached()
        await asyncio.sleep(0.01)
        assert reservation.num_missing == missing
        assert not reservation.is_quiet
        assert not receiver.book.completed
        receiver.pool.gate.open()
        assert isinstance(await sender.outcome(), int)
        assert reservation.first_token_id == FIRST_TOKEN_ID
        assert np.array_equal(receiver.kv(reservation), sender.kv)


async def test_another_streams_frame_is_begun_before_one_is_stored() -> None:
    async with (
        receiver_side(DevicePool()) as receiver,
        sender_side(NUM_TOKENS) as one,
        sender_side(NUM_TOKENS) as two,
        sender_side(NUM_TOKENS) as three,
    ):

        def start(sender: SenderSide) -> None:
            sender.send(receiver.destination(receiver.book.reserve(NUM_TOKENS)))

        receiver.pool.gate.close()
        start(one)
        await receiver.pool.gate.reached()
        start(two)
        start(three)
        await queued(receiver.receiver._thread, 2)
        receiver.pool.gate.open()
        for each in (one, two, three):
            assert isinstance(await each.outcome(), int)
        changes = [1 if each.startswith("begin") else -1 for each in receiver.pool.log]
        assert max(accumulate(changes)) == 2
        assert sum(changes) == 0
        assert len(receiver.book.completed) == 3


async def test_a_reservation_that_is_released_is_free_once_its_copy_has_ended() -> None:
    async with receiver_side(DevicePool()) as receiver, sender_side(NUM_TOKENS) as sender:
        reservation = receiver.book.reserve(NUM_TOKENS)
        receiver.pool.gate.close()
        sender.start(receiver.destination(reservation))
        sender.compute()
        await receiver.pool.gate.reached()
        sender.sender.abort(SEQUENCE_ID)
        with receiver.lock:
            reservation.blocks.release()
        await asyncio.sleep(0.01)
        assert receiver.num_free < NUM_BLOCKS
        receiver.pool.gate.open()
        await receiver.quiet()
        assert receiver.num_free == NUM_BLOCKS


async def test_a_frame_that_cannot_be_stored_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise TandemError("no such block")

    async with receiver_side(DevicePool()) as receiver, sender_side(NUM_TOKENS) as sender:
        monkeypatch.setattr(receiver.pool, "write", fail)
        reservation = receiver.book.reserve(NUM_TOKENS)
        sender.send(receiver.destination(reservation))
        assert isinstance(await sender.outcome(), Unavailable)
        await receiver.quiet()
        assert receiver.pool.log == ["begin K0", "drop K0"]
        assert reservation.is_quiet
        with receiver.lock:
            reservation.blocks.release()
        assert receiver.num_free == NUM_BLOCKS
