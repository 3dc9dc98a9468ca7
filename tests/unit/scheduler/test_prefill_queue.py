"""The queue of prompts: ordered by a policy, whatever comes and leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from queued_prompts import ARRIVALS, UNHURRIED, arriving, generation, queue_of

from gateway.generation import Generation
from gateway.policies import PATIENCE, POLICIES
from gateway.stages import AttemptEnd


def test_a_short_prompt_overtakes_a_long_one_until_that_has_waited() -> None:
    queue = queue_of("shortest-first")
    long = generation(1, arrived_s=0.0, num_tokens=1000)
    soon = generation(2, arrived_s=PATIENCE - 0.5, num_tokens=10)
    late = generation(3, arrived_s=PATIENCE + 0.5, num_tokens=10)
    for each in (long, soon, late):
        queue.push(each)
    order = []
    while head := queue.peek():
        queue.remove(head)
        order.append(head)
    assert order == [soon, long, late]


def test_a_prompt_that_has_started_stands_by_what_is_left_of_it() -> None:
    queue = queue_of("shortest-first")
    long = generation(1, arrived_s=0.0, num_tokens=1000)
    before = queue.rank(long)
    long.num_scheduled = 990
    assert queue.rank(long) < queue.rank(generation(2, 0.0, num_tokens=20)) < before


def test_what_starts_before_anything_is_known_is_not_overtaken_once_it_is() -> None:
    queue = queue_of("shortest-first")
    started, queued = (generation(number, 0.0, 1000, token_s=0.0) for number in (1, 2))
    queue.push(queued)
    started.num_scheduled = 256
    assert queue.rank(started) < queue.rank(queued)
    assert queue.rank(queued) < queue.rank(generation(3, 0.0, 1000))


def test_what_comes_back_goes_before_what_came_after_it() -> None:
    queue = queue_of("fcfs")
    first, second = generation(1, 0.0, 10), generation(2, 0.0, 10)
    queue.push(first)
    queue.push(second)
    queue.remove(first)
    first.restart(3, 0.0, AttemptEnd.REFUSED)
    queue.push(first)
    assert queue.peek() is first


@UNHURRIED
@given(st.data(), st.sampled_from(sorted(POLICIES)))
def test_the_head_has_the_lowest_rank_whatever_leaves(data: st.DataObject, policy: str) -> None:
    queue = queue_of(policy)
    waiting: list[Generation] = []
    for each in arriving(data.draw(ARRIVALS)):
        queue.push(each)
        waiting.append(each)
        if data.draw(st.booleans()):
            leaving = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            queue.remove(leaving)
        assert len(queue) == len(waiting)
        assert queue.num_tokens_left == sum(each.num_prompt_tokens for each in waiting)
        assert queue.peek() is min(waiting, key=queue.rank, default=None)
