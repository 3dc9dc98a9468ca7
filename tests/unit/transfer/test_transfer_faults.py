"""Every named fault of a transfer: what is damaged is noticed, and nothing of it counts."""

from __future__ import annotations

import numpy as np
import pytest
from frame_damage import DAMAGE
from push_pair import NUM_BLOCKS, receiver_side, sender_side

from tandem.core.errors import DataLoss, TandemError, Unavailable
from tandem.faults.frames import faulty_calls
from tandem.faults.injector import FaultInjector
from tandem.faults.plan import Fault, FaultName

# One frame a layer and plane, in one region each.
NUM_FRAMES = 8


async def outcome_of(fault: Fault) -> tuple[int | TandemError, bool]:
    """How a transfer ends that meets a fault, and whether its reservation was complete. The
    receiver serves the next one."""
    wrap_call = faulty_calls(FaultInjector([fault]))
    async with receiver_side() as receiver, sender_side(8, 1, 10**6, wrap_call) as sender:
        reservation = receiver.book.reserve(8)
        sender.send(receiver.destination(reservation))
        outcome = await sender.outcome()
        completed = reservation in receiver.book.completed
        if completed:
            assert np.array_equal(receiver.kv(reservation), sender.kv)
        await receiver.quiet()
        reservation.blocks.release()
        assert receiver.num_free == NUM_BLOCKS
        async with sender_side(5) as another:
            again = receiver.book.reserve(5)
            another.start(receiver.destination(again))
            another.compute()
            another.finish()
            assert isinstance(await another.outcome(), int)
            assert np.array_equal(receiver.kv(again), another.kv)
    return outcome, completed


@pytest.mark.parametrize("place", [0, 3, NUM_FRAMES - 1])
@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_noticed_wherever_it_is(name: FaultName, place: int) -> None:
    outcome, completed = await outcome_of(Fault(name, skip=place, times=1))
    assert isinstance(outcome, DataLoss)
    assert not completed


async def test_a_stream_that_breaks_is_not_taken_for_damage() -> None:
    outcome, completed = await outcome_of(Fault(FaultName.STREAM_BREAK, skip=3, times=1))
    assert isinstance(outcome, Unavailable)
    assert not completed


@pytest.mark.parametrize("name", [FaultName.FRAME_DELAY, FaultName.ACK_DELAY])
async def test_what_is_only_late_is_right(name: FaultName) -> None:
    outcome, completed = await outcome_of(Fault(name, seconds=0.01))
    assert isinstance(outcome, int)
    assert completed
