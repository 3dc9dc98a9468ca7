"""What begins like a prompt that is just being computed waits for it, where that pays."""

from __future__ import annotations

from math import inf

import pytest
from scheduler_driver import SchedulerDriver
from sim_worker import BLOCK_SIZE

from gateway import shared_prompts
from gateway.colocated_policies import colocated_policy
from gateway.effects import Emit
from gateway.generation import Generation
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_prompts import MAX_WAITS, MIN_TOKENS
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT
from gateway.worker_view import PoolUse
from tandem.core.commands import PrefillBatch, Reserve
from tandem.core.errors import DeadlineExceeded, Unavailable
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import Armed, BatchDone, SequenceFailed
from tandem.core.worker import WorkerRole

SYSTEM = tuple(range(1, 4 * MIN_TOKENS + 1))


class Driver(SchedulerDriver):
    """A fleet of a prefill and a decode worker, or of a decode worker alone."""

    def __init__(
        self,
        *,
        policy: str = "fcfs",
        caches_prefixes: bool = True,
        colocated: str = "",
        max_batch_tokens: int = 8192,
    ) -> None:
        super().__init__(
            Scheduler(
                queue_policy(policy),
                Limits(max_batch_tokens),
                colocated=colocated_policy(colocated, 8192, 8192) if colocated else None,
            ),
            num_blocks=20_000,
            max_num_seqs=64,
        )
        for role in (WorkerRole.DECODE,) if colocated else (WorkerRole.PREFILL, WorkerRole.DECODE):
            self.join(role.name.lower(), role, caches_prefixes=caches_prefixes)
        self._num_requests = 0

    def submit(
        self,
        *question: int,
        prompt: tuple[int, ...] = SYSTEM,
        priority: int = 0,
        deadline_s: float = inf,
        salt: bytes = b"",
    ) -> Generation:
        self._num_requests += 1
        return self.submit_prompt(
            f"r{self._num_requests}",
            (*prompt, *question),
            prefix_salt=salt,
            priority=priority,
            deadline_s=deadline_s,
        )

    def reserved(self) -> list[int]:
        """The sequences for which blocks were asked since the last time."""
        return [each.sequence_id for each in self.commands(Reserve)]

    def waiting(self, *generations: Generation) -> list[bool]:
        """Who of them waits for another."""
        self.scheduler.compose()
        return [each in self.scheduler._queue._shared for each in generations]

    def compute(self, generation: Generation) -> None:
        """Its prompt is computed, and its KV there: cached, if the worker does that."""
        self.grant(generation)
        for batch in self.commands(PrefillBatch):
            self.scheduler.report("prefill", BatchDone(batch.batch_id, 1))
        assert generation.prefix
        for worker in self.scheduler.workers:
            if worker.info.caches_prefixes:
                changes = CacheChanges(tuple(generation.prefix.digests()), (), False)
                use = PoolUse(worker.num_free_blocks)
                self.scheduler.heard(worker.info.worker_id, use, 0.0, cache_changes=changes)
        armed = Armed(generation.sequence_id, generation.num_context_tokens, 7, 0)
        self.scheduler.report("decode", armed)

    def measured(self, token_s: float, step_s: float) -> None:
        """What prompt tokens, and steps without any, take on the prefill worker."""
        for num_tokens in (10, 1000) * 20:
            self.stepped("prefill", num_tokens, step_s + token_s * num_tokens)


@pytest.mark.parametrize("colocated", ["", "prefill-first"])
def test_a_prompt_that_many_begin_with_is_computed_once(colocated: str) -> None:
    driver = Driver(colocated=colocated)
    first, *others = (driver.submit(number) for number in range(2000, 2005))
    assert driver.reserved() == [first.sequence_id]
    assert driver.scheduler.num_queued == len(others)
    assert driver.scheduler._queue.num_queued(DEFAULT_TENANT) == len(others)
    driver.compute(first)
    num_system_tokens = len(SYSTEM) // BLOCK_SIZE * BLOCK_SIZE
    num_own_tokens = others[0].num_prompt_tokens - num_system_tokens
    assert driver.scheduler.num_queued_tokens == len(others) * num_own_tokens
    assert driver.reserved() == [each.sequence_id for each in others]
    assert {each.expected_cached_tokens for each in others} == {num_system_tokens}


def test_choices_wait_for_the_first_of_them() -> None:
    driver = Driver()
    first, *others = (driver.submit(9) for _ in range(3))
    assert driver.reserved() == [first.sequence_id]
    driver.compute(first)
    assert len(driver.reserved()) == len(others)


@pytest.mark.parametrize("how", ["cancelled", "refused", "lost"])
def test_if_it_comes_to_nothing_another_is_computed_and_the_rest_wait_for_that(how: str) -> None:
    driver = Driver()
    first, second, third = (driver.submit(number) for number in range(2000, 2003))
    assert driver.reserved() == [first.sequence_id]
    if how == "cancelled":
        driver.scheduler.cancel(first)
    elif how == "refused":
        refusal = SequenceFailed(first.sequence_id, "RESOURCE_EXHAUSTED", "no room")
        driver.scheduler.report("decode", refusal)
        driver.scheduler.heard("decode", PoolUse(20_000), 1.0)
    else:
        driver.scheduler.worker_lost("decode", Unavailable("it was lost"))
        driver.join("decode", WorkerRole.DECODE, epoch=2)
    leader, follower = (second, third) if how == "cancelled" else (first, second)
    assert driver.reserved() == [leader.sequence_id]
    assert driver.waiting(leader, follower) == [False, True]
    driver.compute(leader)
    assert len(driver.reserved()) == (1 if how == "cancelled" else 2)


def test_nobody_waits_for_ever() -> None:
    driver = Driver()
    generations = [driver.submit(number) for number in range(2000, 2000 + MAX_WAITS + 2)]
    last = generations[-1]
    for each in generations[: MAX_WAITS + 1]:
        assert driver.waiting(last) == [last.num_waits < MAX_WAITS or each is not generations[-2]]
        driver.scheduler.cancel(each)
    assert last.num_waits == MAX_WAITS


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_nobody_waits_for_one_whose_worker_may_be_lost(role: str) -> None:
    driver = Driver()
    first, second = (driver.submit(number) for number in range(2000, 2002))
    assert driver.waiting(first, second) == [False, True]
    driver.scheduler.worker_suspected(role)
    assert driver.waiting(first, second, driver.submit(2003)) == [False, False, False]


def test_nobody_waits_for_what_a_draining_worker_computes_for_itself() -> None:
    """Who waited would be nowhere near it: that worker takes nothing new."""
    driver = Driver(colocated="chunked")
    first, second = driver.submit(2000), driver.submit(2001)
    assert driver.waiting(first, second) == [False, True]
    driver.join("other", WorkerRole.DECODE)
    driver.scheduler.draining.cordon("decode", 100.0, now=0.0)
    third = driver.submit(2002)
    assert driver.waiting(first, second, third) == [False, False, True]
    assert (first.decode_worker, second.decode_worker) == ("decode", "other")


def test_nobody_waits_for_what_a_draining_prefill_worker_computes() -> None:
    """Nor has another one it cached then: all who waited would be computed from their beginning."""
    driver = Driver()
    first, *others = (driver.submit(number) for number in range(2000, 2003))
    assert driver.waiting(first, *others) == [False, True, True]
    driver.join("other", WorkerRole.PREFILL)
    driver.scheduler.draining.cordon("prefill", 100.0, now=0.0)
    assert driver.waiting(first, *others) == [False, False, True]
    assert (first.prefill_worker, others[0].prefill_worker) == ("prefill", "other")


@pytest.mark.parametrize("drains", [False, True])
def test_what_a_draining_worker_has_cached_is_computed_once_elsewhere(drains: bool) -> None:
    driver = Driver(colocated="chunked")
    before = driver.submit(2000)
    assert driver.waiting(before) == [False]
    driver.compute(before)
    driver.join("other", WorkerRole.DECODE)
    if drains:
        driver.scheduler.draining.cordon("decode", 100.0, now=0.0)
    first, second = driver.submit(2001), driver.submit(2002)
    assert driver.waiting(first, second) == [False, drains]
    assert first.decode_worker == ("other" if drains else "decode")


def test_what_only_decode_workers_have_cached_is_computed_once_for_all() -> None:
    """As after a prefill worker's restart: none of them can go on from what it has lost."""
    driver = Driver()
    before = driver.submit(2000)
    assert driver.waiting(before) == [False]
    driver.compute(before)
    driver.scheduler.worker_lost("prefill", Unavailable("it was lost"))
    driver.join("prefill", WorkerRole.PREFILL, epoch=2)
    first, second = driver.submit(2001), driver.submit(2002)
    num_cached = second.expected_cached_tokens
    assert num_cached > 0
    assert driver.waiting(first, second) == [False, True]
    driver.compute(first)
    assert driver.waiting(second) == [False]
    # What it was thought to have cached was right, and is counted once.
    assert second.expected_cached_tokens == num_cached


def test_the_longer_of_two_leaders_is_waited_for() -> None:
    driver = Driver(max_batch_tokens=32)
    driver.measured(1e-3, step_s=0.1)
    short = driver.submit(prompt=SYSTEM[: BLOCK_SIZE + 1])
    long = driver.submit(2000)
    assert driver.waiting(short, long, driver.submit(2001)) == [False, False, True]


def test_prompts_of_two_salts_share_nothing() -> None:
    driver = Driver()
    assert driver.waiting(driver.submit(2000), driver.submit(2001, salt=b"x")) == [False, False]


@pytest.mark.parametrize(
    ("batching", "waits"), [("chunked", True), ("prefill-first", True), ("decode-first", False)]
)
def test_nobody_waits_for_a_batch_that_is_closed_then(batching: str, waits: bool) -> None:
    driver = Driver(colocated=batching)
    assert driver.waiting(driver.submit(2000), driver.submit(2001)) == [False, waits]


def test_who_waits_can_be_cancelled_and_is_in_time_or_ends() -> None:
    driver = Driver()
    first = driver.submit(2000)
    cancelled, late, last = (
        driver.submit(2001),
        driver.submit(2002, deadline_s=5.0),
        driver.submit(7),
    )
    driver.reserved()
    driver.scheduler.cancel(cancelled)
    driver.scheduler.expire(now=6.0)
    ended = {each.generation: each.event for each in driver.effects() if isinstance(each, Emit)}
    assert ended.keys() == {cancelled, late}
    assert isinstance(ended[late], DeadlineExceeded)
    assert driver.scheduler.num_queued == 1
    driver.compute(first)
    assert driver.reserved() == [last.sequence_id]


@pytest.mark.parametrize(("deadline_s", "waits"), [(0.8, False), (2.0, True)])
def test_nobody_waits_who_would_be_late_by_that(deadline_s: float, waits: bool) -> None:
    """By itself it takes half a second, and the first, with which it has half in common, a whole
    one."""
    driver = Driver()
    driver.join("idle", WorkerRole.PREFILL)
    for num_tokens in (64, 256, 1024) * 10:
        for name in ("prefill", "idle"):
            driver.stepped(name, num_tokens, 0.01 + 0.5 * num_tokens / len(SYSTEM))
    driver.submit(*range(2000, 2000 + len(SYSTEM)))
    driver.effects()
    hurried = driver.submit(7, deadline_s=deadline_s)
    assert driver.waiting(hurried) == [waits]


def test_all_end_when_the_gateway_stops() -> None:
    driver = Driver()
    for number in range(2000, 2003):
        driver.submit(number)
    driver.reserved()
    driver.scheduler.fail_all(Unavailable("the gateway is stopping"))
    assert len([each for each in driver.effects() if isinstance(each, Emit)]) == 3
    assert driver.scheduler.num_queued == 0


def test_nobody_waits_where_nothing_is_cached() -> None:
    driver = Driver(caches_prefixes=False)
    generations = [driver.submit(number) for number in range(2000, 2003)]
    assert not any(driver.waiting(*generations))


@pytest.mark.parametrize("priority", [1, 5, 9])
def test_nobody_waits_for_one_that_is_less_important(priority: int) -> None:
    driver = Driver(policy="priority")
    first = driver.submit(2000, priority=5)
    assert driver.reserved() == [first.sequence_id]
    assert driver.waiting(driver.submit(2001, priority=priority)) == [priority >= 5]


@pytest.mark.parametrize(("token_s", "waits"), [(1e-6, False), (1e-3, True)])
def test_what_costs_less_than_a_step_is_computed_by_each(token_s: float, waits: bool) -> None:
    driver = Driver()
    driver.measured(token_s, step_s=0.1)
    driver.submit(2000)
    assert driver.waiting(driver.submit(2001)) == [waits]


def test_nobody_waits_for_what_is_mostly_another_s() -> None:
    driver = Driver()
    driver.submit(*range(5000, 5000 + 2 * len(SYSTEM)))
    assert driver.waiting(driver.submit(2001)) == [False]


def test_what_two_share_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out = []
    original = shared_prompts._num_shared

    def num_shared(one: Generation, other: Generation) -> int:
        worked_out.append(one)
        return original(one, other)

    monkeypatch.setattr(shared_prompts, "_num_shared", num_shared)
    driver = Driver()
    first, second = driver.submit(2000), driver.submit(2001)
    assert driver.waiting(first, second) == [False, True]
    assert worked_out == [second]
