"""A tenant's queue in order, and what waits before any place in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from queued_prompts import UNHURRIED, generation

from gateway import ranked_queue
from gateway.generation import Generation
from gateway.ranked_queue import BLOCK_SIZE, Rank, RankedQueue


@patch.object(ranked_queue, "BLOCK_SIZE", 2)
@UNHURRIED
@given(st.randoms(use_true_random=False), st.integers(0, 100), st.sampled_from((1, 50)))
def test_it_is_as_if_all_were_looked_at(random: Random, num_changes: int, num_ranks: int) -> None:
    """Also with many of one and the same rank of the policy's, who stand by their arrival; in
    blocks so small that many are split, and some are emptied."""
    queue, waiting, numbers = RankedQueue(), dict[Generation, Rank](), count()
    for _ in range(num_changes):
        if waiting and random.random() < 0.3:
            leaving = random.choice(list(waiting))
            queue.remove(leaving)
            del waiting[leaving]
        else:
            number = next(numbers)
            each = generation(number, 0.0, random.randint(1, 9))
            waiting[each] = float(random.randrange(num_ranks)), number
            queue.push(each, waiting[each])
    in_order = sorted(waiting, key=waiting.__getitem__)
    assert len(queue) == len(waiting)
    assert [queue.rank(each) for each in in_order] == [waiting[each] for each in in_order]
    if in_order:
        assert (queue.head, queue.last) == (in_order[0], in_order[-1])
    num_before = 0
    for each in in_order:
        assert queue.num_tokens_before(waiting[each]) == num_before
        num_before += each.num_tokens_left
    assert queue.num_tokens_left == num_before == queue.num_tokens_before((float("inf"), 0))
    assert queue.num_tokens_before((-1.0, 0)) == 0


class Watched(dict[Rank, tuple[Generation, int]]):
    """What a queue holds, and how many of these it has looked at."""

    num_looked_at = 0

    def __getitem__(self, rank: Rank) -> tuple[Generation, int]:
        self.num_looked_at += 1
        return super().__getitem__(rank)

    def __iter__(self) -> Iterator[Rank]:
        self.num_looked_at += len(self)
        return super().__iter__()

    def values(self) -> Any:
        self.num_looked_at += len(self)
        return super().values()

    def items(self) -> Any:
        self.num_looked_at += len(self)
        return super().items()


def test_what_a_full_queue_holds_is_not_added_up_for_each_request() -> None:
    queue = RankedQueue()
    ranks = [(float(number * 37 % 4096), number) for number in range(4096)]
    for number, rank in enumerate(ranks):
        queue.push(generation(number, float(number), 1 + number % 7), rank)
    queue._queued = watched = Watched(queue._queued)
    for rank in sorted(ranks)[1::200]:
        watched.num_looked_at = 0
        assert queue.num_tokens_before(rank) > 0
        assert watched.num_looked_at <= 2 * BLOCK_SIZE
    assert len(queue._blocks) <= len(ranks) / BLOCK_SIZE
