"""KV of preempted sequences that is kept in the host's memory."""

from __future__ import annotations

import pytest
from standing_plan_driver import LAYOUT, Plan, ids

from tandem.core.commands import Remove, SetRecomputeCost
from tandem.core.kv import Plane
from tandem.core.reports import Preempted

TOKEN_BYTES = LAYOUT.token_bytes * LAYOUT.num_layers * len(Plane)


def short_of_blocks(max_parked_bytes: int = 10**6, **details: bool) -> Plan:
    """Of two running sequences the second is preempted."""
    plan = Plan(num_blocks=3, max_parked_bytes=max_parked_bytes, **details)
    plan.run(1, length=4, headroom=0)
    plan.run(2, length=4, headroom=4)
    return plan


def test_a_parked_sequence_keeps_its_blocks_until_they_are_copied() -> None:
    plan = short_of_blocks()
    assert plan.next_step() is None
    assert plan.reports.take() == [Preempted(2, parked=True)]
    (move,) = plan.moves
    assert (move.num_tokens, move.copy) == (4, None)
    assert plan._allocator.num_free == 0
    plan.move()
    assert plan._allocator.num_free == 2
    assert ids(plan.start()) == [1]


def test_it_comes_back_when_there_is_room_and_goes_on_where_it_was() -> None:
    plan = short_of_blocks()
    plan.next_step()
    plan.move()
    step = plan.start()
    plan.done(step, 60)
    assert not plan.moves, "there are blocks for it, but none to spare"
    plan.apply(Remove(1))
    assert plan.next_step() is None
    (move,) = plan.moves
    assert (move.num_tokens, move.first_token, len(move.blocks.ids)) == (4, 0, 2)
    assert plan.next_step() is None
    plan.move()
    step = plan.start()
    (part,) = step.slices
    assert (part.sequence_id, part.start, list(part.token_ids)) == (2, 4, [50])
    assert list(part.block_table) == move.blocks.ids


def test_what_is_cached_is_not_copied_back() -> None:
    plan = short_of_blocks(prefix_caching=True)
    plan.next_step()
    plan.move()
    plan.apply(Remove(1))
    plan.next_step()
    (move,) = plan.moves
    assert (move.first_token, move.num_tokens) == (4, 4)


def test_newcomers_do_not_get_what_it_needs() -> None:
    plan = short_of_blocks()
    plan.next_step()
    plan.move()
    plan.done(plan.start(), 60)
    plan.apply(Remove(1))
    assert plan._allocator.num_free == 3
    assert plan.num_free_blocks == 1


def test_what_costs_more_than_computing_it_again_is_not_parked() -> None:
    plan = short_of_blocks()
    plan.next_step()
    plan.move(seconds=1.0)
    # Four tokens took a second: both ways, half a second a token.
    running = plan._held[1]
    plan.apply(SetRecomputeCost(token_s=0.51))
    assert plan._parking.takes(running)
    plan.apply(SetRecomputeCost(token_s=0.49))
    assert not plan._parking.takes(running)


def test_there_is_a_limit_to_the_memory() -> None:
    plan = short_of_blocks(max_parked_bytes=5 * TOKEN_BYTES - 1)
    assert ids(plan.start()) == [1]
    assert plan.reports.take() == [Preempted(2)]
    plan = short_of_blocks(max_parked_bytes=5 * TOKEN_BYTES)
    assert plan.next_step() is None
    assert plan.reports.take() == [Preempted(2, parked=True)]


def on_its_way(num_moves: int) -> Plan:
    """The second is on its way out, or, with a move done, back."""
    plan = short_of_blocks()
    plan.next_step()
    for _ in range(num_moves):
        plan.move()
        plan.apply(Remove(1))
        plan.next_step()
    plan.reports.take()
    return plan


@pytest.mark.parametrize("num_moves", [0, 1])
def test_one_that_is_removed_on_its_way_leaves_nothing(num_moves: int) -> None:
    plan = on_its_way(num_moves)
    plan.apply(Remove(2))
    plan.apply(Remove(1))
    plan.move()
    assert plan.num_free_blocks == 3
    assert plan.next_step() is None


@pytest.mark.parametrize("num_moves", [0, 1])
def test_the_move_of_one_that_is_removed_is_not_wanted(num_moves: int) -> None:
    plan = on_its_way(num_moves)
    (move,) = plan.moves
    assert move.wanted
    plan.apply(Remove(2))
    assert not move.wanted
    plan.moved(move, None, 1.0)
    assert not any(isinstance(each, Preempted) for each in plan.reports.take())
    plan.apply(Remove(1))
    assert plan.num_free_blocks == 3


@pytest.mark.parametrize("num_moves", [0, 1])
def test_a_copy_that_fails_costs_computing_it_again(num_moves: int) -> None:
    plan = on_its_way(num_moves)
    plan.moved(plan.moves.pop(), None, 0.0)
    assert plan.reports.take() == [Preempted(2)]
    plan.apply(Remove(1))
    assert plan.num_free_blocks == 3


def test_a_snapshot_has_the_parked() -> None:
    plan = short_of_blocks()
    plan.next_step()
    plan.move()
    assert {each.sequence_id for each in plan.snapshot().sequences} == {1, 2}
    plan.clear()
    assert plan.snapshot().sequences == ()
    assert plan.num_free_blocks == 3


def beside_a_shared_prefix() -> Plan:
    """Three sequences begin alike, in two blocks; the last of them is parked."""
    plan = Plan(num_blocks=7, max_parked_bytes=10**6, prefix_caching=True)
    for sequence_id in (1, 2, 3):
        plan.run(sequence_id, length=9, headroom=2, max_tokens=90)
    for token_id in range(60, 65):
        step = plan.start()
        plan.done(step, *(token_id + 10 * number for number in range(len(step.slices))))
    assert len(plan.moves) == 1
    return plan


def test_what_others_hold_is_awaited_too_but_not_waited_for() -> None:
    plan = beside_a_shared_prefix()
    plan.move()
    assert plan._parking.num_awaited_blocks == 4
    plan.apply(Remove(2))
    # Two for it, and one to spare for who runs.
    assert (plan._allocator.num_free, plan.num_free_blocks) == (3, 0)
    plan.start()
    assert plan._parking.num_awaited_blocks == 0
    assert plan.num_free_blocks == plan._allocator.num_free == 1


def test_what_is_told_in_every_message_looks_at_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = beside_a_shared_prefix()
    plan.move()
    monkeypatch.setattr(plan._allocator, "cached", None)
    monkeypatch.setattr(plan._allocator, "is_held", None)
    assert plan.num_free_blocks == 0


def test_what_is_shared_does_not_leave() -> None:
    plan = beside_a_shared_prefix()
    (move,) = plan.moves
    assert len(move.blocks.ids) == 3
    assert plan._parking.num_leaving_blocks == 1


def test_newcomers_leave_what_the_parked_need_to_come_back_for_good() -> None:
    plan = short_of_blocks()
    plan.next_step()
    plan.move()
    plan.done(plan.start(), 60)
    assert plan._allocator.num_free == 1
    plan.apply(Remove(1))
    plan.run(3, length=3, headroom=0)
    assert (plan._allocator.num_free, plan.num_free_blocks) == (2, 0)
