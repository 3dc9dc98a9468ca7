"""When a decode worker computes the last of what waits for the prefill workers."""

from __future__ import annotations

import pytest
from local_prefill_driver import BASE_S, GPU_BASE_S, TOKEN_S, Driver, gpu_driver

from gateway.effects import Emit
from gateway.generation import Phase
from gateway.local_prefill import MAX_PAYING
from gateway.prefix_index import PromptPrefix
from gateway.worker_view import PoolUse
from tandem.core.errors import DeadlineExceeded
from tandem.core.prefix_cache import CacheChanges
from tandem.core.worker import WorkerRole


@pytest.mark.parametrize(("num_running", "num_before"), [(1, 1), (3, 2), (4, 3)])
def test_few_streams_pay_for_the_last_by_what_waits_before_it(
    num_running: int, num_before: int
) -> None:
    """What is on its way to the worker, as the long prompt's sequence is, does not count."""
    driver = Driver(num_running=num_running)
    driver.keep_prefill_busy()
    assert MAX_PAYING * (num_before - 1) <= num_running < MAX_PAYING * num_before
    for number in range(num_before):
        driver.submit(str(number), length=150)
        assert driver.local() == []
    last = driver.submit("last", length=150)
    assert driver.local() == [last.sequence_id]


def test_the_last_in_the_queue_is_computed_here_and_one_at_a_time() -> None:
    """Where it is no later, and those before it are sooner."""
    driver = Driver()
    driver.keep_prefill_busy()
    *_, last = (driver.submit(str(number), length=150) for number in range(4))
    assert driver.local() == [last.sequence_id]
    # One at a time: short ones would wait behind them.
    for number in range(4):
        driver.submit(f"more {number}", length=150)
    assert driver.local() == []


def test_what_ends_with_its_first_token_stays_with_the_prefill_workers() -> None:
    driver = Driver(num_running=1)
    driver.keep_prefill_busy()
    driver.submit("before it", length=150)
    driver.submit("last", length=150, max_tokens=1)
    assert driver.local() == []


@pytest.mark.parametrize(("length", "max_tokens"), [(2000, 20), (2500, 1)])
def test_no_tail_takes_the_room_that_the_head_waits_for(length: int, max_tokens: int) -> None:
    """The head needs more blocks than are free; each answer that ends would make room for another
    that has come behind it. So it is, too, with one that ends with its first token, and is too
    large for the prefill worker."""
    driver = Driver(num_running=1, policy="fcfs", num_prefill_blocks=600)
    driver.keep_prefill_busy()
    head = driver.submit("head", length=length, max_tokens=max_tokens)
    for number in range(4):
        driver.submit(str(number), length=150)
    decode = driver.scheduler._fleet.decode["d"]
    assert driver.local() == [] and not decode.can_take(head)
    driver.scheduler.cancel(head)
    assert driver.local() != []


def test_a_prefill_worker_that_is_too_small_for_the_last_is_not_sooner_with_it() -> None:
    driver = Driver(num_running=1)
    driver.join("small", WorkerRole.PREFILL, num_blocks=10)
    for num_tokens in (256, 64) * 10:
        driver.stepped("small", num_tokens, TOKEN_S / 10 * num_tokens)
    driver.keep_prefill_busy()
    *_, last = (driver.submit(str(number), length=150) for number in range(3))
    assert driver.local() == [last.sequence_id]


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_the_last_may_be_one_that_no_prefill_worker_can_take(max_tokens: int) -> None:
    """Those before it wait for the prefill worker, and it for nothing."""
    driver = Driver(num_running=1, num_prefill_blocks=260)
    driver.keep_prefill_busy(length=1024)
    driver.submit("before it", length=500)
    assert driver.local() == []
    last = driver.submit("last", length=1100, max_tokens=max_tokens)
    assert driver.local() == [last.sequence_id]


def test_what_would_be_later_here_than_at_the_end_of_the_queue_stays_there() -> None:
    """Ten steps of 1.6 s, where the prefill worker is through with all in some three seconds."""
    driver = Driver(measured=False)
    for num_tokens in (256, 64) * 10:
        driver.stepped("p", num_tokens, TOKEN_S * num_tokens)
    for num_tokens in (0, 16) * 10:
        driver.stepped("d", num_tokens, BASE_S + 0.1 * num_tokens)
    driver.keep_prefill_busy()
    *_, last = (driver.submit(str(number), length=150) for number in range(4))
    assert driver.scheduler._fleet.decode["d"].can_take(last)
    assert driver.local() == []


def test_prompts_that_are_cached_are_no_backlog() -> None:
    for is_cached in (False, True):
        driver = Driver()
        driver.keep_prefill_busy()
        if is_cached:
            prefix = PromptPrefix((5,) * 500, block_size=4, salt=b"")
            cached = CacheChanges(added=tuple(prefix.digests()))
            driver.scheduler._fleet.prefill["p"].prefix_index.apply(cached)
        for number in range(4):
            driver.submit(str(number), length=500, alike=True)
        assert bool(driver.local()) is not is_cached


def test_what_part_of_the_prompts_was_cached_before_says_nothing_of_those_that_wait() -> None:
    driver = Driver()
    driver.keep_prefill_busy()
    prefill = driver.scheduler._fleet.prefill["p"]
    prefill.num_prompt_tokens, prefill.num_cached_tokens = 1000, 999
    for number in range(4):
        driver.submit(str(number), length=500)
    assert driver.local() != []


def test_a_backlog_does_not_flood_a_worker_whose_costs_are_unknown() -> None:
    driver = gpu_driver()
    driver.stepped("d", 0, GPU_BASE_S)
    driver.keep_prefill_busy()
    first, *_ = (driver.submit(str(number), length=800) for number in range(9))
    assert driver.local() == [first.sequence_id]


def test_the_backlog_is_taken_from_the_tenant_that_has_the_most() -> None:
    driver = Driver()
    driver.keep_prefill_busy()
    flood = [driver.submit(f"flood {number}", length=150, tenant="a") for number in range(4)]
    driver.submit("other", length=150)
    assert driver.local() == [flood[-1].sequence_id]


def test_what_would_be_computed_in_vain_is_not_the_last_of_a_backlog() -> None:
    driver = Driver()
    driver.keep_prefill_busy()
    *_, before = (driver.submit(str(number), length=150) for number in range(4))
    late = driver.submit("late", length=160, deadline_s=10.0)
    driver.scheduler.heard("d", PoolUse(1000), 9.95)
    effects = driver.effects()
    [ended] = (each for each in effects if isinstance(each, Emit))
    assert (ended.generation, type(ended.event)) == (late, DeadlineExceeded)
    assert late.phase is Phase.ENDED
    assert before.decode_worker == "d"
