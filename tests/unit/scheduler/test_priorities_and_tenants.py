"""What a client says of its own importance says nothing of other tenants' requests."""

from __future__ import annotations

from collections import Counter
from itertools import count, cycle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from queued_prompts import UNHURRIED
from scheduler_driver import SchedulerDriver

from gateway.colocated_policies import colocated_policy
from gateway.fair_shares import FIRST_TOKEN_COST
from gateway.generation import Generation
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT, Tenant
from gateway.worker_view import PoolUse
from tandem.core.commands import PrefillBatch, Reserve
from tandem.core.reports import (
    Armed,
    BatchDone,
    Preempted,
    SequenceFailed,
    TransferDone,
)
from tandem.core.worker import WorkerRole

MOST_IMPORTANT, LEAST_IMPORTANT = -1000, 1000
TENANTS = {DEFAULT_TENANT: Tenant(), "a": Tenant(), "b": Tenant()}
TOKEN_S = 1e-3
BATCH_TOKENS = 250
MIN_PROMPT, MAX_PROMPT = 60, 700
NUM_SEQS = 9
"""Places on the decode worker: three for each tenant."""


class Driver(SchedulerDriver):
    """A scheduler with one worker of each role, for several tenants. A batch has some
    `BATCH_TOKENS`."""

    def __init__(self, policy: str = "shortest-first") -> None:
        scheduler = Scheduler(queue_policy(policy), Limits(2048), tenants=TENANTS)
        super().__init__(scheduler, num_blocks=100_000, max_num_seqs=NUM_SEQS)
        self._names: dict[int, str] = {}
        self.ranks: dict[int, tuple[float, ...]] = {}
        """By sequence."""
        self._numbers = count(1000)
        self._sent: list[PrefillBatch] = []
        self.join("p", WorkerRole.PREFILL, max_num_seqs=1000)
        self.join("d", WorkerRole.DECODE)
        for num_tokens in (256, 64, 1024, 512) * 5:
            self.stepped("p", num_tokens, TOKEN_S * num_tokens)

    def submit(
        self, tenant: str, length: int, priority: int = 0, *, max_tokens: int = 1, name: str = ""
    ) -> Generation:
        """`name` is what it is counted by, or that of the tenant."""
        prompt = (next(self._numbers), *(5,) * (length - 1))
        generation = self.submit_prompt(
            tenant, prompt, max_tokens, tenant=tenant, priority=priority
        )
        self._names[generation.sequence_id] = name or tenant
        return generation

    def batches(self, num_batches: int) -> list[Counter[str]]:
        """So many batches run, one after the other: each one's tokens, by names."""
        ran: list[Counter[str]] = []
        self._sent += self.commands(PrefillBatch)
        while len(ran) < num_batches:
            batch = self._sent.pop(0)
            by_name: Counter[str] = Counter()
            for chunk in batch.chunks:
                by_name[self._names[chunk.sequence_id]] += len(chunk.token_ids)
            ran.append(by_name)
            self.scheduler.report("p", BatchDone(batch.batch_id, 1))
            self._sent += self.commands(PrefillBatch)
        return ran

    def run(self, *generations: Generation) -> None:
        """Their blocks are reserved and granted, and their prompts are computed and moved."""
        for generation in generations:
            self.reserve()
            sequence_id, position = generation.sequence_id, generation.num_context_tokens
            self.grant(generation)
            for batch in self.commands(PrefillBatch):
                self.scheduler.report("p", BatchDone(batch.batch_id, 1))
            self.scheduler.report("d", Armed(sequence_id, position, 7, 0))
            self.scheduler.report("p", TransferDone(sequence_id, 1))

    def reserve(self) -> None:
        """Note the preemption ranks of what is reserved now."""
        reserves = self.commands(Reserve)
        self.ranks.update({each.sequence_id: each.preemption_rank for each in reserves})

    def counter(self, tenant: str) -> float:
        return self.scheduler._lifecycle._shares.counter(tenant)


# Prompts that have started


@pytest.mark.parametrize("priority", [0, MOST_IMPORTANT, LEAST_IMPORTANT])
@pytest.mark.parametrize("policy", ["shortest-first", "priority", "fcfs"])
def test_a_long_prompt_that_has_started_holds_up_no_other_tenant(
    policy: str, priority: int
) -> None:
    """Behind the batches that are with the worker, whatever its client says of it."""
    driver = Driver(policy)
    driver.submit("a", 20_000, priority)
    driver.batches(0)
    driver.submit("b", 100)
    assert [bool(each["b"]) for each in driver.batches(4)] == [False, False, True, False]


def test_who_has_started_and_who_waits_are_computed_by_turns() -> None:
    driver = Driver()
    driver.submit("a", 20_000, MOST_IMPORTANT)
    driver.batches(0)
    for _ in range(100):
        driver.submit("b", BATCH_TOKENS // 2)
    total: Counter[str] = sum(driver.batches(42)[2:], Counter())
    assert abs(total["a"] - total["b"]) <= 2 * BATCH_TOKENS


PROMPTS = st.lists(
    st.tuples(st.integers(MIN_PROMPT, MAX_PROMPT), st.integers(MOST_IMPORTANT, LEAST_IMPORTANT)),
    min_size=1,
    max_size=8,
)


@settings(UNHURRIED, max_examples=15)
@given(PROMPTS, PROMPTS, st.sampled_from(("shortest-first", "priority", "fcfs")))
@example([(MAX_PROMPT, MOST_IMPORTANT)], [(BATCH_TOKENS, LEAST_IMPORTANT)], "priority")
def test_who_always_waits_is_served_alike(
    a: list[tuple[int, int]], b: list[tuple[int, int]], policy: str
) -> None:
    """Whatever the lengths, and whatever clients say: within the bound of `fair_shares.py`."""
    driver = Driver(policy)
    to_come = {"a": cycle(a), "b": cycle(b)}
    total: Counter[str] = Counter()
    for _ in range(20):
        for tenant, prompts in to_come.items():
            # More than two batches can take.
            while driver.scheduler._queue.num_queued(tenant) < 3 * BATCH_TOKENS // MIN_PROMPT:
                driver.submit(tenant, *next(prompts))
        total += driver.batches(1)[0]
        assert abs(total["a"] - total["b"]) <= 2 * MAX_PROMPT


def test_of_one_tenants_own_the_policy_decides() -> None:
    """A short one passes a long one that has started; a less important one does not."""
    driver = Driver()
    driver.submit("a", 2000)
    driver.batches(0)
    driver.submit("a", 100, name="short")
    driver.submit("a", 100, LEAST_IMPORTANT, name="unimportant")
    ran = driver.batches(9)
    assert [bool(each["short"]) for each in ran] == [False, False, True, *[False] * 6]
    assert [bool(each["unimportant"]) for each in ran] == [False] * 8 + [True]


def test_turns_are_not_saved_up_while_a_prompt_is_computed() -> None:
    driver = Driver()
    driver.submit("a", 20_000)
    driver.batches(0)
    driver.submit("b", 100)
    driver.batches(22)
    for _ in range(100):
        driver.submit("b", BATCH_TOKENS // 2)
    total: Counter[str] = sum(driver.batches(22)[2:], Counter())
    assert abs(total["a"] - total["b"]) <= 2 * BATCH_TOKENS


@pytest.mark.parametrize("policy", ["shortest-first", "priority"])
def test_of_tenants_that_were_served_alike_whose_came_first_is_first(policy: str) -> None:
    driver = Driver(policy)
    driver.submit("b", BATCH_TOKENS - 50)
    driver.submit("a", BATCH_TOKENS - 50, MOST_IMPORTANT)
    # Nor does it go by who came later.
    driver.submit("b", BATCH_TOKENS - 50)
    assert driver.batches(1)[0]["b"] == BATCH_TOKENS - 50


def test_what_a_decode_worker_computes_by_itself_is_charged_at_once() -> None:
    chunked = colocated_policy("chunked", 64, 64)
    driver = SchedulerDriver(
        Scheduler(queue_policy("fcfs"), Limits(), colocated=chunked, tenants=TENANTS)
    )
    driver.join("d", WorkerRole.DECODE)
    generation = driver.submit_prompt("r", (5,) * 100, tenant="a")
    driver.effects()
    counter = driver.scheduler._lifecycle._shares.counter
    assert counter("a") == 100
    refusal = SequenceFailed(generation.sequence_id, "RESOURCE_EXHAUSTED", "full")
    driver.scheduler.report("d", refusal)
    assert counter("a") == 0


def test_each_token_is_charged_as_it_comes() -> None:
    driver = Driver()
    generation = driver.submit("a", 100, max_tokens=50)
    driver.run(generation)
    driver.step(generation)
    assert driver.counter("a") == 100 + FIRST_TOKEN_COST


# Who gives way on a decode worker


def test_who_is_over_its_share_gives_way_first_however_important() -> None:
    """Also if nobody else was there when it came."""
    driver = Driver()
    own = [driver.submit("a", 4, MOST_IMPORTANT, max_tokens=50) for _ in range(6)]
    driver.run(*own)
    other = driver.submit("b", 4, max_tokens=50)
    driver.run(other)
    other_rank = driver.ranks[other.sequence_id]
    gives_way = [driver.ranks[each.sequence_id] > other_rank for each in own]
    assert gives_way == [False] * 3 + [True] * 3


def test_within_their_shares_who_came_last_gives_way() -> None:
    driver = Driver()
    first = driver.submit("b", 4, max_tokens=50)
    second = driver.submit("a", 4, MOST_IMPORTANT, max_tokens=50)
    driver.run(first, second)
    assert driver.ranks[first.sequence_id] < driver.ranks[second.sequence_id]


def test_who_says_that_it_is_less_important_gives_way_to_all() -> None:
    driver = Driver()
    first = driver.submit("b", 4, LEAST_IMPORTANT, max_tokens=50)
    second = driver.submit("a", 4, max_tokens=50)
    third = driver.submit("b", 4, max_tokens=50)
    driver.run(first, second, third)
    order = sorted((first, second, third), key=lambda each: driver.ranks[each.sequence_id])
    assert order == [second, third, first]


# What a recompute costs its tenant


def test_what_others_made_necessary_is_not_paid_for_again() -> None:
    driver = Driver()
    mine = driver.submit("b", 100, max_tokens=50)
    driver.run(mine)
    assert driver.counter("b") == 100
    driver.scheduler.report("d", Preempted(mine.sequence_id, parked=False))
    driver.run(mine)
    assert mine.num_context_tokens == 101
    assert driver.counter("b") == 100


def test_who_was_over_its_share_pays_for_what_is_computed_again() -> None:
    driver = Driver()
    own = [driver.submit("a", 10, max_tokens=50) for _ in range(6)]
    driver.run(*own, driver.submit("b", 10, max_tokens=50))
    assert driver.counter("a") == 60
    driver.scheduler.report("d", Preempted(own[-1].sequence_id, parked=False))
    driver.run(own[-1])
    assert driver.counter("a") == 71


def test_what_was_refused_before_it_was_computed_is_paid_for_once() -> None:
    driver = Driver()
    mine = driver.submit("b", 100, max_tokens=50)
    for _ in range(3):
        driver.reserve()
        assert driver.counter("b") == 100
        refusal = SequenceFailed(mine.sequence_id, "RESOURCE_EXHAUSTED", "full")
        driver.scheduler.report("d", refusal)
        assert driver.counter("b") == 0
        driver.scheduler.heard("d", PoolUse(100_000), 1.0)
    driver.reserve()
    driver.scheduler.cancel(mine)
    assert driver.counter("b") == 0
