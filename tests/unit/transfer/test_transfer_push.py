"""Sender and receiver over real gRPC."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any, cast

import grpc
import numpy as np
import pytest
from push_pair import (
    BLOCK_SIZE,
    COMPUTE_END_NS,
    FIRST_TOKEN_ID,
    NUM_BLOCKS,
    SEQUENCE_ID,
    VOCAB_SIZE,
    finish,
    frame,
    opening,
    receiver_side,
    sender_side,
)
from structlog.testing import capture_logs

from tandem.core.commands import Destination
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    EngineFailed,
    Fenced,
    Mismatch,
    PermissionDenied,
    ResourceExhausted,
    TandemError,
    Unavailable,
)
from tandem.core.kv import KVLayout, Plane
from tandem.core.logprobs import TokenLogprobs
from tandem.core.reports import SpanKind
from tandem.transfer import push_call
from tandem.transfer import receiver as receiver_module
from tandem.transfer.codec import Frame
from tandem.transfer.layer_grouper import MAX_FRAME_BYTES, MIN_FRAME_BYTES
from tandem.transfer.links import Link
from tandem.transfer.push_call import PushKvCall
from tandem.transfer.reservation import Reservation
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import sampling_pb2
from tandem.wire.channels import open_channel
from tandem.wire.descriptions import layout_to_wire
from tandem.wire.sampling import logprobs_to_wire

TOKEN_BYTES = 2 * 4 * 8 * 2


# What arrives is what was sent


@pytest.mark.parametrize(
    ("num_tokens", "cached", "chunk_ends"),
    [
        (1, 0, [1]),
        (4, 0, [4]),
        (30, 0, [30]),
        (30, 0, [4, 16, 30]),
        (30, 8, [4, 16, 30]),
        (30, 16, [16, 30]),
        (32, 32, [32]),
    ],
)
@pytest.mark.parametrize("frame_bytes", [(MIN_FRAME_BYTES, MAX_FRAME_BYTES), (1, 64), (100, 200)])
async def test_bytes_arrive_in_their_places(
    num_tokens: int,
    cached: int,
    chunk_ends: list[int],
    frame_bytes: tuple[int, int],
) -> None:
    async with receiver_side() as receiver, sender_side(num_tokens, *frame_bytes) as sender:
        before = receiver.pool.array.copy()
        reservation = receiver.book.reserve(num_tokens, cached)
        sender.start(receiver.destination(reservation))
        for end in chunk_ends:
            sender.compute(end)
        sender.finish()
        assert await sender.outcome() == (num_tokens - cached) * TOKEN_BYTES
        assert np.array_equal(receiver.kv(reservation)[:, :, cached:], sender.kv[:, :, cached:])
        assert receiver.book.completed == [reservation]
        assert reservation.first_token_id == FIRST_TOKEN_ID
        # Nothing else was touched: not the cached blocks, nor those of anybody else.
        written = reservation.blocks.ids[cached // BLOCK_SIZE : -1]
        others = [block for block in range(NUM_BLOCKS) if block not in written]
        assert np.array_equal(receiver.pool.array[:, :, others], before[:, :, others])


async def test_both_ends_tell_what_they_did() -> None:
    async with receiver_side() as receiver, sender_side(10) as sender:
        sender.send(receiver.destination(receiver.book.reserve(10)))
        await sender.outcome()
        await receiver.quiet()
        *sent, transfer = sender.spans
        assert [each.kind for each in sent] == [SpanKind.FRAME_SENT] * 2
        assert [each.kind for each in receiver.spans] == [SpanKind.FRAME_RECEIVED] * 2
        assert sum(each.num_bytes for each in sent) == 10 * TOKEN_BYTES
        assert sum(each.num_bytes for each in receiver.spans) == 10 * TOKEN_BYTES
        assert [each.number for each in sent] == [each.number for each in receiver.spans] == [0, 1]
        assert (transfer.kind, transfer.num_bytes) == (SpanKind.TRANSFER, 10 * TOKEN_BYTES)
        assert transfer.compute_end_ns == COMPUTE_END_NS
        assert transfer.number == len(sent)
        assert transfer.start_ns <= sent[0].start_ns
        assert transfer.end_ns >= sent[-1].end_ns
        assert {each.sequence_id for each in sender.spans + receiver.spans} == {SEQUENCE_ID}
        assert sender.sender.get(SEQUENCE_ID) is None, "nothing is kept of what is over"


async def test_a_transfer_of_nothing_starts_when_it_is_finished() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        sender.send(receiver.destination(receiver.book.reserve(8, 8)))
        assert await sender.outcome() == 0
        (transfer,) = sender.spans
        assert 0 < transfer.start_ns <= transfer.end_ns


async def test_many_transfers_at_once_do_not_mix() -> None:
    async with receiver_side() as receiver, sender_side(7) as one, sender_side(6) as two:
        reservations = [receiver.book.reserve(7), receiver.book.reserve(6)]
        for side, reservation in zip((one, two), reservations, strict=True):
            side.start(receiver.destination(reservation))
            side.compute()
            side.finish()
        for side, reservation in zip((one, two), reservations, strict=True):
            assert isinstance(await side.outcome(), int)
            assert np.array_equal(receiver.kv(reservation), side.kv)


# Arming is by coverage


async def test_a_finish_is_refused_while_anything_is_missing() -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        open_ = opening(reservation, layout)
        values = frame(reservation, layout, plane=Plane.VALUE)
        with pytest.raises(DataLoss, match="8 of 16 parts have not come"):
            await receiver.push(open_, values, finish(1))
        assert reservation.first_token_id is None
        keys = frame(reservation, layout)
        with pytest.raises(DataLoss, match="without the first token"):
            await receiver.push(open_, keys, finish(1, first_token=None))
        assert receiver.book.completed == []
        await receiver.push(open_, finish(0))
        assert receiver.book.completed == [reservation]
        kv = receiver.kv(reservation)
        assert (kv[0] == Plane.KEY).all()
        assert (kv[1] == Plane.VALUE).all()


async def test_nothing_is_armed_while_another_stream_stores_the_same() -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        open_ = opening(reservation, layout)
        both = [frame(reservation, layout, number=n, plane=p) for n, p in enumerate(Plane)]
        with pytest.raises(Cancelled):
            await receiver.push(open_, *both)
        receiver.pool.gate.close()
        repeating = asyncio.create_task(receiver.push(open_, both[0], finish(1)))
        await receiver.pool.gate.reached()
        with pytest.raises(DataLoss, match="another stream"):
            await receiver.push(open_, finish(0))
        assert receiver.book.completed == []
        receiver.pool.gate.open()
        await repeating
        assert receiver.book.completed == [reservation]


async def test_blocks_in_any_order_arm_with_the_last() -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(11)
        regions = [
            {
                "plane": plane,
                "layers": range(layer, layer + 1),
                "first_token": start,
                "num_tokens": min(4, 11 - start),
            }
            for plane in Plane
            for layer in range(4)
            for start in (0, 4, 8)
        ]
        Random(0).shuffle(regions)
        messages = [
            frame(reservation, layout, number=number, **region)
            for number, region in enumerate(regions)
        ]
        open_ = opening(reservation, layout)
        with pytest.raises(DataLoss):
            await receiver.push(open_, *messages[:-1], finish(len(messages) - 1))
        last = frame(reservation, layout, **regions[-1])
        await receiver.push(open_, last, finish(1))
        assert receiver.book.completed == [reservation]


async def test_a_sender_that_has_sent_too_little_is_told() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        sender.send(receiver.destination(receiver.book.reserve(9)))
        assert isinstance(await sender.outcome(), DataLoss)
        assert receiver.book.completed == []


def whole(reservation: Reservation, mine: KVLayout, last: bytes) -> list[bytes]:
    """A transfer of two frames, and its last message."""
    both = [frame(reservation, mine, number=n, plane=p) for n, p in enumerate(Plane)]
    return [opening(reservation, mine), *both, last]


@pytest.mark.parametrize("num_top", [0, 1, 2])
async def test_the_first_token_has_the_log_probabilities_that_were_asked_for(num_top: int) -> None:
    async with receiver_side() as receiver:
        reservation = receiver.book.reserve(6, num_logprobs=2)
        sent = TokenLogprobs.of(-0.5, range(num_top), [-1.0] * num_top)
        last = finish(2, logprobs=logprobs_to_wire(sent))
        await receiver.push(*whole(reservation, receiver.pool.layout, last))
        assert reservation.first_token_logprobs == sent


@pytest.mark.parametrize(
    ("num_asked", "sent"),
    [
        (None, {"logprob": -0.5}),
        (2, None),
        (2, {"logprob": -0.5, "token_ids": [1, 2, 3], "logprobs": [-1.0] * 3}),
        (2, {"logprob": -0.5, "token_ids": [1], "logprobs": [-1.0] * 2}),
        (2, {"logprob": -0.5, "token_ids": [VOCAB_SIZE], "logprobs": [-1.0]}),
        (2, {"logprob": -0.5, "token_ids": [1], "logprobs": [math.nan]}),
        (2, {"logprob": -math.inf}),
    ],
)
async def test_other_log_probabilities_than_these_are_refused(
    num_asked: int | None, sent: dict[str, Any] | None
) -> None:
    """They would be reported as they are: too many are more than a report's message can carry."""
    async with receiver_side() as receiver:
        reservation = receiver.book.reserve(6, num_logprobs=num_asked)
        logprobs = sampling_pb2.TokenLogprobs(**sent) if sent else None
        with pytest.raises(DataLoss, match="log-probabilit"):
            last = finish(2, logprobs=logprobs)
            await receiver.push(*whole(reservation, receiver.pool.layout, last))
        assert receiver.book.completed == []
        assert reservation.first_token_id is None


# One frame is stored while the next one comes


def layer_frames(reservation: Reservation, layout: KVLayout) -> list[bytes]:
    """A transfer of one frame a layer and plane: its opening, its frames, its finish."""
    regions = [(plane, range(layer, layer + 1)) for plane in Plane for layer in range(4)]
    frames = [
        frame(reservation, layout, number=number, plane=plane, layers=layers)
        for number, (plane, layers) in enumerate(regions)
    ]
    return [opening(reservation, layout), *frames, finish(len(frames))]


async def stream(messages: list[bytes], taken: list[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        taken.append(message)
        yield message


async def test_one_frame_comes_while_another_is_stored_and_no_more() -> None:
    async with receiver_side() as receiver:
        reservation = receiver.book.reserve(6)
        messages = layer_frames(reservation, receiver.pool.layout)
        taken: list[bytes] = []
        tasks = asyncio.all_tasks()
        receiver.pool.gate.close()
        receiving = asyncio.create_task(receiver.receiver.receive(stream(messages, taken)))
        await receiver.pool.gate.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        assert taken == messages[:3]
        receiver.pool.gate.open()
        response = await receiving
        assert response.num_frames == 8
        assert receiver.book.completed == [reservation]
        assert response.num_bytes == 6 * TOKEN_BYTES
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= tasks


async def test_a_stream_that_is_cancelled_while_a_frame_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The blocks are free when the storing has ended, and its failure is nobody's any more."""
    unasked: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unasked.append(context))
    async with receiver_side() as receiver:

        def write(*args: object) -> None:
            receiver.pool.gate.pass_()
            raise ValueError("no such region")

        monkeypatch.setattr(receiver.pool, "write", write)
        reservation = receiver.book.reserve(6)
        messages = layer_frames(reservation, receiver.pool.layout)
        receiver.pool.gate.close()
        receiving = asyncio.create_task(receiver.receiver.receive(stream(messages, [])))
        await receiver.pool.gate.reached()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        with receiver.lock:
            reservation.blocks.release()
            assert receiver.num_free < NUM_BLOCKS
        receiver.pool.gate.open()
        await receiver.quiet()
        assert receiver.num_free == NUM_BLOCKS
        del receiving
        gc.collect()
        assert unasked == []


async def test_a_frame_that_waits_when_its_worker_ends_is_left() -> None:
    """And is nobody's any more."""
    unasked: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unasked.append(context))
    async with receiver_side() as receiver:
        streams = [
            stream(layer_frames(receiver.book.reserve(6), receiver.pool.layout), [])
            for _ in range(2)
        ]
        receiver.pool.gate.close()
        stored, left = (asyncio.create_task(receiver.receiver.receive(each)) for each in streams)
        await receiver.pool.gate.reached()
        stored.cancel()
        closing = asyncio.create_task(asyncio.to_thread(receiver.receiver.close))
        async with asyncio.timeout(10):
            await asyncio.wait([stored, left])
        assert left.cancelled()
        receiver.pool.gate.open()
        await closing
        assert unasked == []


# What does not fit is refused


@pytest.mark.parametrize(
    ("change", "named"),
    [
        # In the words of the handshake, which is the same check.
        ({"model_fingerprint": "e" * 64}, "by-hand differ in model: f{64} and e{64}"),
        ({"layout": {"num_layers": 5}}, "by-hand differ in KV layout: .* and .*num_layers=5"),
        ({"layout": {"num_kv_heads": 2}}, "num_kv_heads=2"),
        ({"layout": {"head_dim": 4}}, "head_dim=4"),
        ({"layout": {"block_size": 8}}, "block_size=8"),
        ({"layout": {"dtype": "float16"}}, "float16"),
        ({"layout": {"dtype": "int4"}}, "int4"),
    ],
)
async def test_a_sender_that_does_not_fit_is_refused_by_name(
    change: dict[str, Any], named: str
) -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        if "layout" in change:
            change = {"layout": layout_to_wire(replace(layout, **change["layout"]))}
        with pytest.raises(Mismatch, match=named):
            await receiver.push(opening(reservation, layout, **change), finish(0))


# Who does not fit either: at the address of a worker that is gone another model may be served.
@pytest.mark.parametrize("misfit", [{}, {"model_fingerprint": "e" * 64}])
@pytest.mark.parametrize("change", [{"transfer_id": b"guessed"}, {"epoch": 99}, {"epoch": 0}])
async def test_an_unknown_reservation_is_fenced(
    change: dict[str, Any], misfit: dict[str, Any]
) -> None:
    async with receiver_side() as receiver:
        reservation = receiver.book.reserve(6)
        with pytest.raises(Fenced):
            await receiver.push(opening(reservation, receiver.pool.layout, **change, **misfit))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda open_, one, two, end: [one, two, end], DataLoss),  # no identity
        (lambda open_, one, two, end: [end], DataLoss),
        (lambda open_, one, two, end: [], Cancelled),
        (lambda open_, one, two, end: [b"", one], DataLoss),
        (lambda open_, one, two, end: [b"\xff\xff", one], DataLoss),
        (lambda open_, one, two, end: [open_], Cancelled),  # no finish
        (lambda open_, one, two, end: [open_, one, two], Cancelled),
        (lambda open_, one, two, end: [open_, open_, one], DataLoss),
        (lambda open_, one, two, end: [open_, two, one, end], DataLoss),  # reordered
        (lambda open_, one, two, end: [open_, one, one, two, end], DataLoss),  # duplicate
        (lambda open_, one, two, end: [open_, two, end], DataLoss),  # missing
        (lambda open_, one, two, end: [open_, one, end], DataLoss),
        (lambda open_, one, two, end: [open_, one, b"", end], DataLoss),
        (lambda open_, one, two, end: [open_, one[:-1], two, end], DataLoss),  # truncated
        (lambda open_, one, two, end: [open_, one[:-1] + b"x", two, end], DataLoss),  # corrupt
        (lambda open_, one, two, end: [open_, one, two, finish(3)], DataLoss),
        # A first token that is none of the model's.
        (lambda open_, one, two, end: [open_, one, two, finish(2, VOCAB_SIZE)], DataLoss),
    ],
)
async def test_a_broken_stream_of_messages_is_refused(damage: Any, kind: type[TandemError]) -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        messages = damage(
            opening(reservation, layout),
            frame(reservation, layout),
            frame(reservation, layout, number=1, plane=Plane.VALUE),
            finish(2),
        )
        with pytest.raises(kind):
            await receiver.push(*messages)
        assert receiver.book.completed == []
        reservation.blocks.release()
        assert receiver.num_free == NUM_BLOCKS


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"transfer_id": b"another"}, DataLoss),
        ({"epoch": 2}, DataLoss),
        ({"layers": range(3, 5)}, DataLoss),
        ({"layers": range(0)}, DataLoss),
        ({"first_token": 4, "num_tokens": 4}, DataLoss),
        ({"first_token": 1, "num_tokens": 5}, DataLoss),
        ({"num_tokens": 5}, DataLoss),
        ({"num_tokens": 8}, DataLoss),
        ({"first_token": 2**31, "num_tokens": 4}, DataLoss),
    ],
)
async def test_a_frame_that_lies_elsewhere_writes_nothing(
    change: dict[str, Any], kind: type[TandemError]
) -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        with pytest.raises(kind):
            await receiver.push(opening(reservation, layout), frame(reservation, layout, **change))
        assert not receiver.pool.array.any()


async def test_a_damaged_frame_has_not_come() -> None:
    """Whoever sends the rest by another stream arms nothing."""
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        open_ = opening(reservation, layout)
        damaged = frame(reservation, layout)[:-1] + b"x"
        with pytest.raises(DataLoss, match="checksum"):
            await receiver.push(open_, damaged, finish(1))
        values = frame(reservation, layout, plane=Plane.VALUE)
        with pytest.raises(DataLoss, match="8 of 16 parts have not come"):
            await receiver.push(open_, values, finish(1))
        assert receiver.book.completed == []


@pytest.mark.parametrize("refused", [DataLoss, Unavailable])
async def test_a_frame_that_is_refused_is_not_kept(
    refused: type[TandemError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until garbage is collected: it may be megabytes."""

    def fail(*args: object) -> None:
        raise EngineFailed("KV was not copied into the pool")

    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(4)
        keys = frame(reservation, layout)
        values = frame(reservation, layout, number=1, plane=Plane.VALUE)
        if refused is DataLoss:
            keys = keys[:-1] + bytes([keys[-1] ^ 1])
        else:
            monkeypatch.setattr(receiver.pool, "write", fail)
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(refused):
                await receiver.push(opening(reservation, layout), keys, values, finish(2))
            await receiver.server.stop(0)
            known = gc.get_referents(*gc.get_objects())
            assert not any(type(each) is Frame for each in known)
            for sent in (keys, values):
                came = [each for each in known if type(each) is bytes and each == sent]
                assert all(each is sent for each in came)
        finally:
            gc.enable()


async def test_a_frame_of_another_dtype_or_shape_writes_nothing() -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        for other in (
            replace(layout, dtype="float16"),
            replace(layout, num_kv_heads=2),
            replace(layout, head_dim=4),
        ):
            with pytest.raises(DataLoss):
                await receiver.push(opening(reservation, layout), frame(reservation, other))
        assert not receiver.pool.array.any()


async def test_a_complete_reservation_takes_nothing_more() -> None:
    """Its sequence may run by now, and no frame may change what it reads."""
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        open_ = opening(reservation, layout)
        both = [frame(reservation, layout, number=n, plane=p) for n, p in enumerate(Plane)]
        await receiver.push(open_, *both, finish(2))
        before = receiver.kv(reservation).copy()
        async with sender_side(6) as again:
            again.start(receiver.destination(reservation))
            again.compute()
            again.finish()
            assert isinstance(await again.outcome(), Fenced)
        assert np.array_equal(receiver.kv(reservation), before)


# Fences, deaths, aborts


async def test_a_stream_that_is_open_when_its_reservation_closes_stores_and_arms_nothing() -> None:
    async with receiver_side() as receiver, sender_side(8, 1, 64) as sender:
        reservation = receiver.book.reserve(8)
        receiver.pool.gate.close()
        sender.start(receiver.destination(reservation))
        sender.compute()
        await receiver.pool.gate.reached()
        with receiver.lock:
            reservation.close()
        receiver.pool.gate.open()
        sender.finish()
        assert isinstance(await sender.outcome(), Fenced)
        assert receiver.book.completed == []
        assert reservation.first_token_id is None
        assert reservation.is_quiet


@pytest.mark.parametrize("is_closed", [False, True])
async def test_a_silent_stream_ends_with_its_reservation(
    monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    monkeypatch.setattr(receiver_module, "FENCE_S", 0.1)
    async with receiver_side() as receiver, open_channel(receiver.address) as channel:
        reservation = receiver.book.reserve(8)
        call = Link(channel).push_kv()
        await call.send(opening(reservation, receiver.pool.layout))
        await asyncio.sleep(0.3)
        assert not call._call.done()
        with capture_logs() as logs:
            with receiver.lock:
                (reservation.close if is_closed else reservation.blocks.release)()
            assert isinstance(await call.error(), Fenced)
        warned = [each["event"] for each in logs if each["log_level"] == "warning"]
        assert warned == (["transfer refused"] if is_closed else [])


async def test_a_stream_that_never_says_what_it_is_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "IDENTITY_S", 0.1)
    async with receiver_side() as receiver, open_channel(receiver.address) as channel:
        error = await Link(channel).push_kv().error()
        assert isinstance(error, DeadlineExceeded)


async def test_a_stream_with_a_reservation_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "IDENTITY_S", 0.1)
    monkeypatch.setattr(receiver_module, "FENCE_S", 0.1)
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        sender.start(receiver.destination(reservation))
        await asyncio.sleep(0.5)
        sender.compute()
        sender.finish()
        assert isinstance(await sender.outcome(), int)


async def test_a_second_finish_does_not_change_the_first_token() -> None:
    async with receiver_side() as receiver:
        layout = receiver.pool.layout
        reservation = receiver.book.reserve(6)
        open_ = opening(reservation, layout)
        both = [frame(reservation, layout, number=n, plane=p) for n, p in enumerate(Plane)]
        await receiver.push(open_, *both, finish(2))
        with pytest.raises(DataLoss, match="first token"):
            await receiver.push(open_, finish(0, first_token=FIRST_TOKEN_ID + 1))
        assert reservation.first_token_id == FIRST_TOKEN_ID


async def test_a_release_during_a_write_fences_and_frees_when_the_write_has_ended() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        receiver.pool.gate.close()
        sender.start(receiver.destination(reservation))
        sender.compute()
        await receiver.pool.gate.reached()
        with receiver.lock:
            reservation.blocks.release()
            assert receiver.num_free < NUM_BLOCKS
        sender.finish()
        receiver.pool.gate.open()
        assert isinstance(await sender.outcome(), Fenced)
        assert receiver.num_free == NUM_BLOCKS
        assert receiver.book.completed == []


async def test_a_release_before_the_finish_fences() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        sender.start(receiver.destination(reservation))
        sender.compute()
        while reservation.num_missing:
            await receiver.quiet()
            await asyncio.sleep(0)
        with receiver.lock:
            reservation.blocks.release()
        sender.finish()
        assert isinstance(await sender.outcome(), Fenced)
        assert receiver.num_free == NUM_BLOCKS


@pytest.mark.parametrize("reason", ["released before", "released meanwhile", "closed", "unknown"])
async def test_who_fences_warns_of_what_nobody_wanted(reason: str) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        destination = receiver.destination(reservation)
        if reason == "unknown":
            destination = replace(destination, transfer_id=b"guessed")
        elif reason == "released before":
            reservation.blocks.release()
        receiver.pool.gate.close()
        with capture_logs() as logs:
            sender.send(destination)
            if reason in ("released meanwhile", "closed"):
                await receiver.pool.gate.reached()
                with receiver.lock:
                    (reservation.close if reason == "closed" else reservation.blocks.release)()
            receiver.pool.gate.open()
            assert type(await sender.outcome()) is Fenced
        warned = [each["event"] for each in logs if each["log_level"] == "warning"]
        assert warned == ([] if reason.startswith("released") else ["transfer refused"])


async def test_nobody_at_the_address_is_one_error() -> None:
    async with sender_side(8) as sender:
        sender.send(Destination("127.0.0.1:1", b"x", 1, 0))
        assert isinstance(await sender.outcome(), Unavailable)
        sender.blocks.release()
        assert sender.allocator.num_free == NUM_BLOCKS


@pytest.mark.parametrize("finished", [False, True])
async def test_a_receiver_that_goes_in_the_middle_is_one_error(finished: bool) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        receiver.pool.gate.close()
        sender.start(receiver.destination(receiver.book.reserve(8)))
        sender.compute(4)
        if finished:
            sender.compute(8)
            sender.finish()
        await receiver.pool.gate.reached()
        await receiver.server.stop(0)
        receiver.pool.gate.open()
        if not finished:
            sender.compute(8)
            sender.finish()
        assert isinstance(await sender.outcome(), TandemError)
        await sender.quiet()
        sender.blocks.release()
        assert sender.allocator.num_free == NUM_BLOCKS


class BreakingCall:
    """A call whose connection breaks while its half-close is under way, as gRPC tells of that: with
    a status at hand, or with none to come."""

    def __init__(self, call: PushKvCall, has_status: bool) -> None:
        self._call = call
        self._has_status = has_status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def done_writing(self) -> None:
        if self._has_status:
            self._call.cancel()
        raise grpc.aio.InternalError('Failed "execute_batch"')


@pytest.mark.parametrize("has_status", [True, False])
async def test_a_connection_that_breaks_in_the_half_close_is_a_broken_link(
    has_status: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_call, "STATUS_WAIT_S", 0.1)

    def wrap_call(call: PushKvCall) -> PushKvCall:
        return cast(PushKvCall, BreakingCall(call, has_status))

    async with receiver_side() as receiver, sender_side(8, wrap_call=wrap_call) as sender:
        sender.send(receiver.destination(receiver.book.reserve(8)))
        assert isinstance(await sender.outcome(), Unavailable)


@pytest.mark.parametrize(
    ("answered", "kind"),
    [
        (Fenced, Fenced),
        (DataLoss, DataLoss),
        (Unavailable, Unavailable),
        # Neither is the sequence's fault, which another pair of workers may well serve.
        (TandemError, Unavailable),
        (Mismatch, Unavailable),
        (PermissionDenied, Unavailable),
        (ResourceExhausted, Unavailable),
        (Cancelled, Unavailable),
    ],
)
async def test_whatever_the_receiver_answers_is_one_error(
    answered: type[TandemError], kind: type[TandemError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)

        def refuse(*args: object) -> None:
            raise answered("not now")

        monkeypatch.setattr(receiver.book, "reservation", refuse)
        with capture_logs() as logs:
            sender.start(receiver.destination(reservation))
            for end in (4, 8):
                await asyncio.sleep(0)
                sender.compute(end)
            sender.finish()
            outcome = await sender.outcome()
        assert type(outcome) is kind
        assert str(outcome) == "not now"
        (failure,) = (each for each in logs if each["event"] == "transfer failed")
        assert (failure["reason"], failure["sequence"]) == (answered.reason, SEQUENCE_ID)
        is_told_there = answered in (Cancelled, Fenced)
        assert failure["log_level"] == ("debug" if is_told_there else "warning")


async def test_an_abort_during_a_read_frees_when_the_read_has_ended() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        sender.pool.gate.close()
        sender.start(receiver.destination(reservation))
        sender.compute()
        await sender.pool.gate.reached()
        sender.sender.abort(SEQUENCE_ID)
        with sender.lock:
            sender.blocks.release()
            assert sender.allocator.num_free < NUM_BLOCKS
        sender.pool.gate.open()
        await sender.quiet()
        assert sender.allocator.num_free == NUM_BLOCKS
        assert sender.outcomes == []
        assert sender.sender.get(SEQUENCE_ID) is None


@pytest.mark.parametrize("num_turns", range(0, 60, 3))
async def test_an_abort_at_any_time_leaves_nothing(num_turns: int) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        sender.send(receiver.destination(reservation))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        sender.sender.abort(SEQUENCE_ID)
        await sender.quiet()
        await receiver.server.stop(0)
        await receiver.quiet()
        for side, lock, blocks in (
            (sender.allocator, sender.lock, sender.blocks),
            (receiver.book.allocator, receiver.lock, reservation.blocks),
        ):
            with lock:
                blocks.release()
            assert side.num_free == NUM_BLOCKS
        assert len(sender.outcomes) <= 1


async def test_a_sequence_that_is_released_while_it_is_sent_is_one_error() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        sender.start(receiver.destination(receiver.book.reserve(8)))
        with sender.lock:
            sender.blocks.release()
        sender.compute()
        sender.finish()
        outcome = await sender.outcome()
        assert isinstance(outcome, Unavailable)
        # Its blocks may be another's by now: they are not even read.
        assert "was dropped" in outcome.message


@pytest.mark.parametrize("error", [TandemError("no such block"), RuntimeError("CUDA")])
async def test_an_error_of_the_pool_is_one_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:

        def read_into(*args: object) -> None:
            raise error

        monkeypatch.setattr(sender.pool, "read_into", read_into)
        sender.send(receiver.destination(receiver.book.reserve(8)))
        assert isinstance(await sender.outcome(), Unavailable)


@pytest.mark.parametrize(("side", "kind"), [("sender", EngineFailed), ("receiver", Unavailable)])
async def test_whose_engine_cannot_copy_is_known_at_the_sender(
    side: str, kind: type[TandemError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is the sequence's fault: it goes on elsewhere, past the one that failed."""

    def fail(*args: object) -> None:
        raise EngineFailed("the device is gone")

    async with receiver_side() as receiver, sender_side(8) as sender:
        if side == "sender":
            monkeypatch.setattr(sender.pool, "read_into", fail)
        else:
            monkeypatch.setattr(receiver.pool, "write", fail)
        sender.send(receiver.destination(receiver.book.reserve(8)))
        assert type(await sender.outcome()) is kind


def break_down(*args: object) -> None:
    raise AssertionError("block 7 is freed twice")


async def has_crashed(guard: StateGuard) -> bool:
    with pytest.raises(TandemError, match="the worker is broken: AssertionError"):
        await asyncio.wait_for(guard.crash, 10)
    return True


@pytest.mark.parametrize("where", ["the book", "the reservation", "its blocks"])
async def test_a_receiver_whose_state_breaks_ends_its_worker_and_tells_the_sender(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        reservation = receiver.book.reserve(8)
        owner, name = {
            "the book": (receiver.book, "reservation_complete"),
            "the reservation": (reservation, "cover"),
            "its blocks": (reservation.blocks, "end_access"),
        }[where]
        monkeypatch.setattr(owner, name, break_down)
        sender.send(receiver.destination(reservation))
        assert isinstance(await sender.outcome(), TandemError)
        assert await has_crashed(receiver.guard)
        assert not sender.guard.crash.done()


async def test_a_sender_whose_blocks_break_ends_its_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        monkeypatch.setattr(sender.blocks, "end_access", break_down)
        sender.send(receiver.destination(receiver.book.reserve(8)))
        assert isinstance(await sender.outcome(), TandemError)
        assert await has_crashed(sender.guard)
        assert not receiver.guard.crash.done()


async def test_a_state_that_breaks_as_a_transfer_ends_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        monkeypatch.setattr(sender.sender, "_on_done", break_down)
        sender.send(receiver.destination(receiver.book.reserve(8)))
        assert await has_crashed(sender.guard)


async def test_an_error_of_the_pool_is_no_fault_of_the_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        monkeypatch.setattr(receiver.pool, "write", break_down)
        sender.send(receiver.destination(receiver.book.reserve(8)))
        assert isinstance(await sender.outcome(), TandemError)
        assert not receiver.guard.crash.done()
        assert not sender.guard.crash.done()


async def test_what_a_sender_is_refused_for_is_no_fault_of_the_books() -> None:
    async with receiver_side() as receiver:
        reservation = receiver.book.reserve(8)
        open_ = opening(reservation, receiver.pool.layout)
        with pytest.raises(DataLoss):
            await receiver.push(open_, finish(3))
        with receiver.lock:
            reservation.blocks.release()
        with pytest.raises(Fenced):
            await receiver.push(open_, finish(0))
        assert not receiver.guard.crash.done()


async def test_closing_ends_all_transfers_without_a_word() -> None:
    async with receiver_side() as receiver, sender_side(8) as sender:
        sender.start(receiver.destination(receiver.book.reserve(8)))
        sender.compute()
        await sender.sender.close()
        assert sender.outcomes == []
