"""The orders in which prompts are prefilled."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.fair_shares import FairShares
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.policies import PATIENCE, POLICIES, queue_policy
from gateway.prefill_queue import PrefillQueue
from gateway.tenants import ONE_TENANT
from gateway.tokens import TokenRequest
from tandem.core.sampling_params import SamplingParams

TOKEN_S = 1e-3
PARAMS = SamplingParams(max_tokens=1, seed=0)
# (seconds since the last arrival, prompt tokens)
ARRIVALS = st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 4000)), max_size=40)


def queue_of(policy: str) -> PrefillQueue:
    return PrefillQueue(queue_policy(policy), FairShares(ONE_TENANT, Fleet()))


def generation(
    number: int, arrived_s: float, num_tokens: int, token_s: float = TOKEN_S
) -> Generation:
    request = TokenRequest(str(number), (5,) * num_tokens, PARAMS)
    return Generation(request, number, arrived_s, token_s)


def arriving(arrivals: list[tuple[float, int]]) -> list[Generation]:
    now = 0.0
    generations = []
    for number, (after_s, num_tokens) in enumerate(arrivals):
        now += after_s
        generations.append(generation(number, now, num_tokens))
    return generations


def serve(queue: PrefillQueue, generations: list[Generation]) -> dict[int, float]:
    """One worker computes all, one after the other: when each starts, by its arrival."""
    now = 0.0
    starts: dict[int, float] = {}
    to_come = list(generations)
    while to_come or len(queue):
        while to_come and (to_come[0].arrived_s <= now or not len(queue)):
            now = max(now, to_come[0].arrived_s)
            queue.push(to_come.pop(0))
        head = queue.peek()
        assert head
        queue.remove(head)
        starts[head.arrival] = now
        now += head.num_prompt_tokens * TOKEN_S
    return starts


def work_s(generations: list[Generation]) -> float:
    return sum(each.num_prompt_tokens for each in generations) * TOKEN_S


@given(ARRIVALS)
def test_first_come_is_first_served(arrivals: list[tuple[float, int]]) -> None:
    starts = serve(queue_of("fcfs"), arriving(arrivals))
    assert list(starts) == sorted(starts)


@given(ARRIVALS)
@example([(0.0, 1000), (0.0, 400), *[(0.1, 200)] * 60])
def test_shortest_first_lets_nobody_starve(arrivals: list[tuple[float, int]]) -> None:
    """A prompt waits for no more than one that runs, and what came within its patience, however
    much comes after that."""
    generations = arriving(arrivals)
    starts = serve(queue_of("shortest-first"), generations)
    longest_s = max((each.num_prompt_tokens for each in generations), default=0) * TOKEN_S
    for each in generations:
        patience_s = PATIENCE * each.num_prompt_tokens * TOKEN_S
        rivals = [it for it in generations if it.arrived_s <= each.arrived_s + patience_s]
        others_s = work_s(rivals) - work_s([each])
        assert starts[each.arrival] - each.arrived_s <= longest_s + others_s + 1e-6


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
    first.restart(sequence_id=3)
    queue.push(first)
    assert queue.peek() is first


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
        assert queue.peek() is min(waiting, key=queue.rank, default=None)
