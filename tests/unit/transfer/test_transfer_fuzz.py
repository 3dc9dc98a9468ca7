"""The receiver under messages that nobody sane would send: it refuses, and writes where it may."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from push_pair import FINGERPRINT, NUM_BLOCKS, VOCAB_SIZE, Book, GatedPool, finish, frame, opening

from tandem.core.errors import TandemError
from tandem.core.kv import Plane
from tandem.transfer.codec import Frame, decode_request
from tandem.transfer.receiver import KvReceiver
from tandem.transfer.reservation import Reservation
from tandem.transfer.state_guard import StateGuard

NUM_TOKENS = 10
BLANK = 7

Messages = list[bytes]
Damage = Callable[[Messages], Messages]


class Receiver:
    """A receiver with one reservation, in a pool whose every byte is known."""

    def __init__(self) -> None:
        self.pool = GatedPool()
        self.pool.array[:] = BLANK
        self.book = Book(self.pool.layout)
        self.reservation = self.book.reserve(NUM_TOKENS)
        self.guard = StateGuard(asyncio.get_running_loop())
        self.receiver = KvReceiver(
            self.pool, self.book, self.guard, FINGERPRINT, VOCAB_SIZE, lambda _: None
        )

    async def receive(self, messages: Messages) -> None:
        """The messages arm the reservation. Raises what the receiver does."""

        async def arriving() -> AsyncIterator[bytes]:
            for message in messages:
                yield message

        try:
            await self.receiver.receive(arriving())
        finally:
            # What is being stored is stored, also after a stream that broke.
            await asyncio.wrap_future(self.receiver._thread._executor.submit(lambda: None))
            self.receiver.close()
            await asyncio.sleep(0)
            assert not self.guard.crash.done()

    def foreign_items(self) -> np.ndarray:
        """All blocks but the reservation's."""
        return np.delete(self.pool.array, self.reservation.blocks.ids, axis=2)


def messages_of(reservation: Reservation, pool: GatedPool) -> Messages:
    """A whole transfer, without a fault."""
    numbered: Sequence[dict[str, Any]] = [
        {"number": number, "plane": plane, "layers": layers}
        for number, (plane, layers) in enumerate(
            (plane, layers) for layers in (range(2), range(2, 4)) for plane in Plane
        )
    ]
    frames = [frame(reservation, pool.layout, **each) for each in numbered]
    return [opening(reservation, pool.layout), *frames, finish(len(frames))]


@dataclass(frozen=True)
class Cut:
    """Bytes of a message are replaced, removed, or more come in their place."""

    message: int
    start: int
    length: int
    put: bytes

    def __call__(self, messages: Messages) -> Messages:
        damaged = bytearray(messages[self.message % len(messages)])
        start = self.start % (len(damaged) + 1)
        damaged[start : start + self.length] = self.put
        return _with(messages, self.message, damaged)


@dataclass(frozen=True)
class Flip:
    """A message is as long as it was, and one byte of it another."""

    message: int
    index: int
    mask: int

    def __call__(self, messages: Messages) -> Messages:
        damaged = bytearray(messages[self.message % len(messages)])
        if damaged:
            damaged[self.index % len(damaged)] ^= self.mask
        return _with(messages, self.message, damaged)


@dataclass(frozen=True)
class Truncate:
    """A message ends too soon."""

    message: int
    size: int

    def __call__(self, messages: Messages) -> Messages:
        return _with(messages, self.message, messages[self.message % len(messages)][: self.size])


@dataclass(frozen=True)
class Misplace:
    """Messages come in another order, twice, or not at all."""

    seed: int

    def __call__(self, messages: Messages) -> Messages:
        chance = Random(self.seed)
        index, other = (chance.randrange(len(messages)) for _ in range(2))
        moved = messages.copy()
        match chance.randrange(3):
            case 0 if len(moved) > 1:
                del moved[index]
            case 1:
                moved.insert(other, moved[index])
            case _:
                moved[index], moved[other] = moved[other], moved[index]
        return moved


@dataclass(frozen=True)
class Intrude:
    """Bytes that are nobody's message come between others."""

    at: int
    put: bytes

    def __call__(self, messages: Messages) -> Messages:
        at = self.at % (len(messages) + 1)
        return [*messages[:at], self.put, *messages[at:]]


def _with(messages: Messages, index: int, other: bytes | bytearray) -> Messages:
    replaced = messages.copy()
    replaced[index % len(messages)] = bytes(other)
    return replaced


NUMBERS = st.integers(0, 2**16)
DAMAGE: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Cut, NUMBERS, st.integers(0, 80) | NUMBERS, st.integers(0, 8), st.binary(max_size=8)),
    st.builds(Flip, NUMBERS, NUMBERS, st.integers(1, 255)),
    st.builds(Truncate, NUMBERS, st.integers(0, 8) | NUMBERS),
    st.builds(Misplace, NUMBERS),
    st.builds(Intrude, NUMBERS, st.binary(max_size=40) | st.just(b"\x12\x00")),
)


async def test_without_damage_it_is_armed() -> None:
    side = Receiver()
    await side.receive(messages_of(side.reservation, side.pool))
    assert side.book.completed == [side.reservation]
    assert (side.foreign_items() == BLANK).all()
    assert (side.pool.array[:, :, side.reservation.blocks.ids[:2]] != BLANK).all()


@settings(max_examples=120)
@given(st.lists(DAMAGE, min_size=1, max_size=3))
async def test_damage_is_refused_and_nothing_else_is_written(damages: list[Damage]) -> None:
    side = Receiver()
    sound = messages_of(side.reservation, side.pool)
    messages = sound
    for damage in damages:
        messages = damage(messages)
    armed = False
    try:
        await side.receive(messages)
        armed = True
    except TandemError as error:
        assert type(error) is not TandemError, "a failure of ours"
    assert (side.foreign_items() == BLANK).all()
    # What is armed is whole and right, whatever else has come.
    assert armed is side.reservation.is_complete is bool(side.book.completed)
    if armed:
        first, second = side.pool.array[:, :, side.reservation.blocks.ids[:2]]
        assert (first == Plane.KEY).all() and (second == Plane.VALUE).all()
    # Nobody holds the blocks any more.
    side.reservation.blocks.release()
    assert side.book.allocator.num_free == NUM_BLOCKS


@settings(max_examples=80)
@given(st.lists(DAMAGE, min_size=1, max_size=4))
def test_a_message_takes_no_more_memory_than_it_has_bytes(damages: list[Damage]) -> None:
    pool = GatedPool()
    messages = messages_of(Book(pool.layout).reserve(NUM_TOKENS), pool)
    for damage in damages:
        messages = damage(messages)
    for message in messages:
        tracemalloc.start()
        try:
            decoded = decode_request(message)
            if isinstance(decoded, Frame):
                decoded.verified_items(pool.layout)
        except TandemError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 4 * len(message) + 2**16
