"""Both kinds of worker begin behind what they have cached."""

from __future__ import annotations

from typing import Any

import pytest
from standing_plan_driver import Plan
from test_batch_queue import DESTINATION, Queue, chunk, failures, first_token

from tandem.core.commands import Admit, Destination, PrefillBatch, PrefillChunk, Remove
from tandem.core.errors import TandemError
from tandem.core.plan import StepPlan, StepResult
from tandem.core.reports import BatchDone, Reserved, StepDone

# Prefill. Blocks have four tokens, and all prompts begin alike.


def prefilled(queue: Queue, sequence_id: int, length: int, **details: Any) -> StepPlan:
    """A whole prompt is computed, and its transfer is done."""
    queue.submit(sequence_id, chunk(sequence_id, length, **details))
    plan = queue.start()
    queue.done(plan, 50)
    queue.transfer_done(sequence_id, 0)
    queue.reports.take()
    return plan


def test_a_prompt_is_computed_behind_its_cached_blocks() -> None:
    queue = Queue(prefix_caching=True)
    (first,) = prefilled(queue, 1, 9).slices
    assert first.start == 0
    assert queue.num_free_blocks == 8
    queue.submit(2, chunk(2, 11))
    plan = queue.start()
    (second,) = plan.slices
    assert (second.start, second.token_ids) == (8, (8, 9, 10))
    assert second.block_table[:2] == first.block_table[:2]
    assert list(second.sample.prompt_token_ids) == list(range(11))
    assert plan.num_prefill_tokens == 3
    assert queue.done(plan, 60) == [BatchDone(2, 2), first_token(2, 11, 60, num_cached_tokens=8)]


def test_the_last_token_is_always_computed() -> None:
    queue = Queue(prefix_caching=True)
    prefilled(queue, 1, 8)
    queue.submit(2, chunk(2, 8))
    (again,) = queue.start().slices
    assert (again.start, again.end) == (4, 8)


def test_nothing_is_shared_with_another_salt_or_if_it_is_off() -> None:
    queue, off = Queue(prefix_caching=True), Queue()
    for each, salt in ((queue, b"mine"), (off, b"")):
        prefilled(each, 1, 8)
        (part,) = prefilled(each, 2, 8, prefix_salt=salt).slices
        assert part.start == 0
    (part,) = prefilled(queue, 3, 8, prefix_salt=b"mine").slices
    assert part.start == 4


def test_a_chunk_that_is_wholly_cached_costs_no_slice() -> None:
    queue = Queue(prefix_caching=True)
    prefilled(queue, 1, 9)
    queue.submit(2, chunk(2, 10, end=8))
    assert queue.next_step() is None
    assert queue.reports.take() == [BatchDone(2, 0)]
    queue.submit(3, chunk(2, 10, start=8))
    (part,) = queue.start().slices
    assert (part.start, part.end) == (8, 10)
    assert queue.transfers.started == [1, 2]


def test_chunks_go_on_behind_what_is_cached_of_the_first() -> None:
    queue = Queue(prefix_caching=True)
    prefilled(queue, 1, 5)
    queue.submit(2, chunk(2, 13, end=8))
    plan = queue.start()
    assert (plan.slices[0].start, plan.slices[0].end) == (4, 8)
    queue.done(plan, None)
    queue.submit(3, chunk(2, 13, start=8))
    assert (queue.start().slices[0].start, queue.snapshot().sequence_ids) == (8, (1, 2))


def test_less_cached_than_thought_takes_more_steps_and_no_longer_ones() -> None:
    queue = Queue(prefix_caching=True)
    queue.apply(PrefillBatch(1, (chunk(1, 14), chunk(2, 6)), max_tokens=9))
    parts: list[tuple[int, int, int, bool]] = []
    reports: list[object] = []
    while plan := queue.next_step():
        assert plan.num_prefill_tokens <= 9
        parts += [
            (each.sequence_id, each.start, each.end, each.sample is not None)
            for each in plan.slices
        ]
        reports += queue.done(plan, *(50 if each.sample else None for each in plan.slices))
    assert parts == [(1, 0, 8, False), (1, 8, 14, True), (2, 0, 6, True)]
    assert [each for each in reports if isinstance(each, BatchDone)] == [BatchDone(1, 3)]


def test_a_step_computes_a_block_at_the_least() -> None:
    queue = Queue(prefix_caching=True)
    queue.apply(PrefillBatch(1, (chunk(1, 8),), max_tokens=1))
    assert queue.start().num_tokens == 4


def test_what_failed_or_has_no_token_yet_is_not_shared() -> None:
    """A chunk's numbers are known to be numbers when a token was sampled behind them."""
    queue = Queue(num_blocks=16, prefix_caching=True)
    queue.submit(1, chunk(1, 9, end=8))
    queue.done(queue.start(), None)
    queue.submit(2, chunk(2, 8))
    plan = queue.start()
    assert plan.slices[0].start == 0
    queue.complete(plan, StepResult((None,), failures=(TandemError("no number"),)), 0, 0)
    assert failures(queue.reports.take()) == [(2, TandemError.reason)]
    queue.submit(3, chunk(3, 8))
    assert queue.start().slices[0].start == 0


def test_what_is_cached_is_evicted_for_what_is_not() -> None:
    queue = Queue(num_blocks=3, prefix_caching=True)
    prefilled(queue, 1, 12)
    other = tuple(range(100, 108))
    sequence = chunk(2, 8).sequence
    queue.submit(2, PrefillChunk(2, 0, other, last=True, sequence=sequence))
    queue.done(queue.start(), 50)
    assert queue.num_free_blocks == 1
    queue.apply(Remove(2))
    # One block of the first is left: the last ones went first.
    (part,) = prefilled(queue, 3, 12).slices
    assert part.start == 4


def test_a_prompt_that_waits_for_blocks_holds_none() -> None:
    queue = Queue(num_blocks=4, prefix_caching=True)
    prefilled(queue, 1, 8)
    other = PrefillChunk(2, 0, tuple(range(50, 58)), last=True, sequence=chunk(2, 8).sequence)
    queue.submit(2, other)
    plan = queue.start()
    queue.submit(3, chunk(3, 16))
    queue.done(plan, 50)
    assert queue.next_step() is None
    assert queue.num_free_blocks == 2
    queue.apply(Remove(2))
    (part,) = queue.start().slices
    assert part.start == 8


def test_a_new_controller_finds_the_cache_as_it_was() -> None:
    queue = Queue(prefix_caching=True)
    prefilled(queue, 1, 9)
    queue.clear()
    assert len(queue.prefix_cache.take_hashes()) == 2
    (part,) = prefilled(queue, 2, 9).slices
    assert part.start == 8


# Decode


def grant(plan: Plan, sequence_id: int, **details: Any) -> Reserved:
    (granted,) = plan.reserve(sequence_id, **details)
    assert isinstance(granted, Reserved)
    return granted


def test_a_reservation_begins_with_what_is_cached() -> None:
    plan = Plan(num_blocks=16, prefix_caching=True)
    assert grant(plan, 1, length=10).num_cached_tokens == 0
    plan.apply(Admit(1))
    plan.arm(1)
    plan.reports.take()
    second = grant(plan, 2, length=11)
    assert second.num_cached_tokens == 8
    # Three more blocks: two are shared.
    assert plan.num_free_blocks == 16 - 4 - 2
    reservation = plan.reservation(second.transfer_id, second.epoch)
    assert reservation.first_token == 8
    first = plan.reservation(plan.grants[1].transfer_id, plan.grants[1].epoch)
    assert reservation.blocks.ids[:2] == first.blocks.ids[:2]


def test_blocks_that_a_reservation_shares_are_not_evicted() -> None:
    plan = Plan(num_blocks=6, prefix_caching=True)
    plan.run(1, length=9)
    plan.apply(Remove(1))
    shared = grant(plan, 2, length=9)
    assert shared.num_cached_tokens == 8
    ids = plan.reservation(shared.transfer_id, shared.epoch).blocks.ids
    other = grant(plan, 3, length=5, headroom=7, prefix_salt=b"another's")
    others = plan.reservation(other.transfer_id, other.epoch).blocks.ids
    assert not set(ids) & set(others)


def test_a_prompt_that_waits_for_its_kv_shares_nothing_yet() -> None:
    plan = Plan(num_blocks=16, prefix_caching=True)
    plan.reserve(1, length=9)
    assert grant(plan, 2, length=9).num_cached_tokens == 0


def test_the_answer_is_shared_as_its_blocks_fill() -> None:
    plan = Plan(num_blocks=16, prefix_caching=True)
    plan.run(1, length=6, headroom=12)
    for token_id in (51, 52, 53):
        step = plan.start()
        plan.done(step, token_id)
    # Tokens 50 to 52 have their KV: nine in all.
    plan.apply(Remove(1))
    turn = (*range(6), 50, 51, 52, 53, 99)
    assert grant(plan, 2, prompt=turn).num_cached_tokens == 8


def test_a_prompt_is_computed_here_behind_what_is_cached() -> None:
    plan = Plan(num_blocks=16, prefix_caching=True)
    plan.compute(1, length=9)
    first = plan.start()
    assert first.num_prefill_tokens == 9
    plan.done(first, 50)
    plan.compute(2, length=10)
    step = plan.start()
    running, part = step.slices
    assert (part.start, part.token_ids) == (8, (8, 9))
    assert part.block_table[:2] == running.block_table[:2]
    (done,) = plan.done(step, 51, 60)
    assert isinstance(done, StepDone)


def test_the_last_token_of_a_prompt_is_always_computed_here() -> None:
    plan = Plan(num_blocks=16, prefix_caching=True)
    plan.compute(1, length=8)
    plan.done(plan.start(), 50)
    plan.compute(2, length=8)
    *_, part = plan.start().slices
    assert (part.start, part.end) == (4, 8)


def test_a_sequence_that_gave_no_number_shares_nothing_of_it() -> None:
    plan = Plan(num_blocks=16, prefix_caching=True)
    plan.compute(1, length=9)
    step = plan.start()
    plan.complete(step, StepResult((None,), failures=(TandemError("no number"),)), 0, 0)
    plan.reports.take()
    assert grant(plan, 2, length=9).num_cached_tokens == 0


@pytest.mark.parametrize(("on", "expected"), [(True, 4), (False, 0)])
def test_it_can_be_turned_off(on: bool, expected: int) -> None:
    plan = Plan(num_blocks=16, prefix_caching=on)
    plan.run(1, length=5)
    assert grant(plan, 2, length=5).num_cached_tokens == expected


def test_what_the_receiver_has_and_the_sender_has_not_is_computed() -> None:
    queue = Queue(prefix_caching=True)
    there = Destination(DESTINATION.address, DESTINATION.transfer_id, 1, num_cached_tokens=8)
    queue.transfers.destination = there
    queue.submit(1, chunk(1, 9, destination=there))
    assert queue.start().slices[0].start == 0
