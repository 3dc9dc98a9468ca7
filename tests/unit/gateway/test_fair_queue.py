"""Whose work is done next, and for whose there is room."""

from __future__ import annotations

import pytest

from gateway.fair_queue import FairQueue, Work
from gateway.tenants import Tenant, Tenants

TENANTS: Tenants = {"one": Tenant(), "other": Tenant(), "heavy": Tenant(weight=2.0)}
MAX_PENDING = 100


@pytest.fixture
def queue() -> FairQueue[Work]:
    return FairQueue(TENANTS, MAX_PENDING)


def push(queue: FairQueue[Work], tenant: str, *sizes: int) -> list[Work]:
    pieces = [Work(tenant, size) for size in sizes]
    for work in pieces:
        queue.push(work, work)
    return pieces


def turns(queue: FairQueue[Work], num_turns: int) -> list[str]:
    """Whose the next turns are."""
    taken = [queue.take() for _ in range(num_turns)]
    return [work.tenant for work in taken if work]


def test_ones_own_is_done_in_order(queue: FairQueue[Work]) -> None:
    pieces = push(queue, "one", 5, 1, 9)
    assert [queue.take() for _ in range(4)] == [*pieces, None]


def test_who_comes_behind_a_flood_is_next(queue: FairQueue[Work]) -> None:
    push(queue, "one", *[10] * 20)
    turns(queue, 5)
    push(queue, "other", 1, 1, 1)
    assert turns(queue, 6) == ["other", "other", "other", "one", "one", "one"]


def test_turns_are_by_size_and_weight(queue: FairQueue[Work]) -> None:
    push(queue, "one", *[10] * 100)
    push(queue, "other", *[5] * 100)
    push(queue, "heavy", *[10] * 100)
    taken = turns(queue, 100)
    assert [taken.count(each) for each in TENANTS] == pytest.approx([20, 40, 40], abs=1)


@pytest.mark.parametrize("num_at_once", [10, 1])
def test_turns_are_not_saved_up(queue: FairQueue[Work], num_at_once: int) -> None:
    push(queue, "one", *[10] * 50)
    turns(queue, 40)
    taken: list[str] = []
    while len(taken) < 10:
        push(queue, "other", *[10] * num_at_once)
        taken += turns(queue, num_at_once)
    assert abs(taken.count("one") - taken.count("other")) <= 1


def test_who_comes_back_at_once_waits_for_its_next_turn(queue: FairQueue[Work]) -> None:
    push(queue, "other", *[1] * 20)
    push(queue, "one", 10)
    assert sorted(turns(queue, 2)) == ["one", "other"]
    push(queue, "one", 10)
    assert turns(queue, 8) == ["other"] * 8


def test_what_is_given_up_has_no_turn_and_makes_room(queue: FairQueue[Work]) -> None:
    first, second, third = push(queue, "one", 50, 50, 50)
    assert queue.take() is first
    queue.end(second)
    assert queue.take() is third
    push(queue, "other", 25)
    assert not queue.can_push(Work("one", 50))
    queue.end(first)
    assert queue.can_push(Work("one", 25))


def test_alone_one_may_have_all_the_room(queue: FairQueue[Work]) -> None:
    push(queue, "one", 60)
    assert queue.can_push(Work("one", 40))
    assert not queue.can_push(Work("one", 41))


def test_a_flood_leaves_others_their_shares_of_the_room(queue: FairQueue[Work]) -> None:
    """A weight of two, of four in all, is half of it."""
    push(queue, "one", *[10] * 10)
    turns(queue, 2)
    for tenant, share in (("other", 25), ("heavy", 50)):
        push(queue, tenant, 1)
        assert queue.can_push(Work(tenant, share - 1))
        assert not queue.can_push(Work(tenant, share))
    assert not queue.can_push(Work("one", 1))


def test_the_first_is_taken_however_large(queue: FairQueue[Work]) -> None:
    push(queue, "one", MAX_PENDING)
    assert queue.can_push(Work("other", 2 * MAX_PENDING))
    push(queue, "other", 2 * MAX_PENDING)
    assert not queue.can_push(Work("other", 1))
