"""Who is let in, who is told to come again and when, and what ends when its time is over."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from scheduler_driver import SchedulerDriver

from gateway.admission import RETRY_AFTER_S
from gateway.colocated_policies import colocated_policy
from gateway.effects import Emit, Send
from gateway.generation import Generation
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT, Tenant, Tenants
from tandem.core.commands import Remove
from tandem.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RateLimitExceeded,
    ResourceExhausted,
    TandemError,
    Unavailable,
)
from tandem.core.reports import Armed, BatchDone, TransferDone
from tandem.core.worker import WorkerRole

# A thousand prompt tokens a second, and a token of each sequence every 20 ms.
TOKEN_S, STEP_S = 1e-3, 0.02
BATCH_TOKENS = 100
TENANTS: Tenants = {
    DEFAULT_TENANT: Tenant(),
    "few": Tenant(max_requests=2),
    "short": Tenant(max_tokens_in_flight=100),
    "heavy": Tenant(weight=3.0),
}


class Driver(SchedulerDriver):
    """A scheduler with one worker of each role, whose pace is known if it is `measured`."""

    now = 100.0

    def __init__(
        self,
        *,
        measured: bool = True,
        max_queue: int = 1000,
        colocated: bool = False,
        tenants: Tenants = TENANTS,
    ) -> None:
        limits = Limits(BATCH_TOKENS, max_queue=max_queue)
        chunked = colocated_policy("chunked", BATCH_TOKENS, BATCH_TOKENS)
        scheduler = Scheduler(
            queue_policy("fcfs"), limits, colocated=chunked if colocated else None, tenants=tenants
        )
        super().__init__(scheduler, max_num_seqs=4)
        if not colocated:
            self.join("p", WorkerRole.PREFILL)
        self.join("d", WorkerRole.DECODE)
        for num_tokens in (10, BATCH_TOKENS) * 20 if measured else ():
            if not colocated:
                self.stepped("p", num_tokens, TOKEN_S * num_tokens)
            self.stepped("d", num_tokens * colocated, STEP_S + colocated * TOKEN_S * num_tokens)

    def submit(
        self,
        length: int,
        max_tokens: int = 5,
        timeout_s: float = inf,
        tenant: str = DEFAULT_TENANT,
        num_behind: int = 0,
        num_tokens_behind: int = 0,
        repeats_prompt: bool = False,
    ) -> Generation:
        return self.submit_prompt(
            "r",
            (5,) * length,
            max_tokens,
            tenant=tenant,
            deadline_s=self.now + timeout_s,
            num_behind=num_behind,
            num_tokens_behind=num_tokens_behind,
            repeats_prompt=repeats_prompt,
        )

    def refusal(self, *args: Any, **kwargs: Any) -> TandemError:
        with pytest.raises(TandemError) as caught:
            self.submit(*args, **kwargs)
        return caught.value

    def run(self, length: int, **details: Any) -> Generation:
        """One that generates."""
        generation = self.submit(length, **details)
        self.effects()
        self.grant(generation)
        self.effects()
        self.scheduler.report("d", Armed(generation.sequence_id, length, 7, 0))
        self.events()
        return generation

    def end_one(self, is_anyone_waiting: bool) -> None:
        """An answer begins and ends."""
        generation = self.run(10)
        (batch_id,) = self.scheduler._fleet.prefill["p"].batches
        self.scheduler.report("p", BatchDone(batch_id, 1))
        self.scheduler.report("p", TransferDone(generation.sequence_id, 1))
        waiting = [self.submit(10)] if is_anyone_waiting else []
        self.scheduler.cancel(generation)
        for each in waiting:
            self.scheduler.cancel(each)

    def full_retry_after_s(self) -> float:
        """When there will be room, of a queue that becomes full now, of prompts of a second."""
        for _ in range(3):
            self.submit(1000)
        error = self.refusal(10)
        assert error.retry_after_s is not None
        return error.retry_after_s


# Room


def test_a_full_queue_is_said_to_have_room_when_a_prompt_is_through() -> None:
    driver = Driver(max_queue=3)
    for _ in range(3):
        driver.submit(1000)
    error = driver.refusal(10)
    assert type(error) is ResourceExhausted
    assert error.retry_after_s == pytest.approx(1.0, rel=0.05)


def test_where_answers_end_slower_than_prompts_are_computed_that_counts() -> None:
    driver = Driver(max_queue=3)
    for _ in range(40):
        driver.now += 7.0
        driver.end_one(is_anyone_waiting=True)
        for _ in range(8):
            # Who had nothing yet leaves nothing.
            driver.scheduler.cancel(driver.submit(10))
    assert driver.full_retry_after_s() == pytest.approx(7.0, rel=0.05)


def test_how_far_apart_answers_end_while_nobody_waits_says_nothing() -> None:
    driver = Driver(max_queue=3)
    for _ in range(3):
        driver.now += 8 * 3600.0
        driver.end_one(is_anyone_waiting=False)
    driver.now += 8 * 3600.0
    driver.end_one(is_anyone_waiting=True)
    assert driver.full_retry_after_s() == pytest.approx(1.0, rel=0.05)


def test_all_choices_of_a_request_have_places_or_none() -> None:
    driver = Driver(max_queue=3)
    driver.submit(10)
    driver.scheduler.check_room(DEFAULT_TENANT, 2, inf, driver.now)
    with pytest.raises(ResourceExhausted):
        driver.scheduler.check_room(DEFAULT_TENANT, 3, inf, driver.now)


def test_all_choices_of_a_request_are_let_in_or_none() -> None:
    """Others may have come while it was read."""
    driver = Driver(max_queue=3)
    driver.submit(10)
    assert type(driver.refusal(10, num_behind=2)) is ResourceExhausted
    driver.submit(10, num_behind=1)
    driver = Driver()
    driver.submit(10, tenant="few")
    assert type(driver.refusal(10, tenant="few", num_behind=1)) is RateLimitExceeded


def test_more_choices_than_there_are_places_are_never_let_in() -> None:
    driver = Driver(max_queue=3)
    with pytest.raises(InvalidRequest, match="3 places") as caught:
        driver.scheduler.check_room(DEFAULT_TENANT, 4, inf, driver.now)
    assert caught.value.param == "n"


def test_a_flood_leaves_others_their_places_in_the_queue() -> None:
    """A weight of three, of six in all, is half of the places."""
    driver = Driver(max_queue=12)
    for _ in range(12):
        driver.submit(100)
    assert type(driver.refusal(100)) is ResourceExhausted
    for _ in range(6):
        driver.submit(100, tenant="heavy")
    assert type(driver.refusal(100, tenant="heavy")) is ResourceExhausted


def test_what_the_workers_have_already_comes_before_the_queue() -> None:
    driver = Driver(max_queue=2)
    driver.submit(1000, max_tokens=1)
    assert driver.effects()
    for _ in range(2):
        driver.submit(1000)
    assert driver.refusal(10).retry_after_s == pytest.approx(2.0, rel=0.05)


def test_while_no_pace_is_known_one_may_come_again_soon() -> None:
    driver = Driver(max_queue=1, measured=False)
    driver.submit(1000)
    assert driver.refusal(10).retry_after_s == RETRY_AFTER_S


def test_without_a_worker_of_a_role_nothing_is_queued() -> None:
    driver = Driver()
    driver.scheduler.worker_lost("p", Unavailable("it was lost"))
    error = driver.refusal(10)
    assert type(error) is Unavailable
    assert "no prefill worker" in error.message


def test_room_is_checked_for_all_choices_before_any_is_submitted() -> None:
    driver = Driver()
    check = driver.scheduler.check_room
    check("few", 2, inf, driver.now)
    driver.submit(10, tenant="few")
    with pytest.raises(RateLimitExceeded):
        check("few", 2, inf, driver.now)
    with pytest.raises(InvalidRequest) as caught:
        check("few", 3, inf, driver.now)
    assert caught.value.param == "n"
    with pytest.raises(DeadlineExceeded):
        check(DEFAULT_TENANT, 1, driver.now, driver.now)


# Quotas


def test_requests_that_are_being_read_are_in_flight() -> None:
    driver = Driver()
    check, reading = driver.scheduler.check_room, driver.scheduler.reading
    with reading("few", 1):
        check("few", 1, inf, driver.now)
        with pytest.raises(RateLimitExceeded):
            check("few", 2, inf, driver.now)
        generation = driver.submit(10, tenant="few")
        for refused in (lambda: check("few", 1, inf, driver.now), lambda: reading("few", 1)):
            with pytest.raises(RateLimitExceeded):
                refused()
        assert isinstance(driver.refusal(10, tenant="few"), RateLimitExceeded)
        check(DEFAULT_TENANT, 1, inf, driver.now)
    driver.submit(10, tenant="few")
    driver.scheduler.cancel(generation)
    with pytest.raises(ZeroDivisionError), reading("few", 1):
        raise ZeroDivisionError
    check("few", 1, inf, driver.now)


def test_who_has_nothing_but_what_is_being_read_may_come_again_soon() -> None:
    driver = Driver()
    with driver.scheduler.reading("few", 2):
        error = driver.refusal(10, tenant="few")
    assert isinstance(error, RateLimitExceeded)
    assert error.retry_after_s == RETRY_AFTER_S


def test_a_tenant_over_its_requests_may_come_again_when_its_oldest_will_have_ended() -> None:
    driver = Driver()
    oldest = driver.run(10, max_tokens=51, tenant="few")
    driver.submit(10, tenant="few")
    error = driver.refusal(10, tenant="few")
    assert isinstance(error, RateLimitExceeded)
    assert error.retry_after_s == pytest.approx(50 * STEP_S, rel=0.05)
    for _ in range(25):
        driver.step(oldest)
    assert driver.refusal(10, tenant="few").retry_after_s == pytest.approx(25 * STEP_S, rel=0.05)
    driver.submit(10)
    driver.scheduler.cancel(oldest)
    driver.submit(10, tenant="few")


def test_what_waits_itself_ends_after_it_was_served() -> None:
    driver = Driver()
    driver.submit(2000)
    for _ in range(2):
        driver.submit(1000, max_tokens=50, tenant="few")
    error = driver.refusal(10, tenant="few")
    assert error.retry_after_s == pytest.approx(1.0 + 50 * STEP_S, rel=0.05)


def test_tokens_in_flight_are_prompts_and_what_may_follow() -> None:
    driver = Driver()
    first = driver.submit(40, max_tokens=20, tenant="short")
    assert isinstance(driver.refusal(30, max_tokens=11, tenant="short"), RateLimitExceeded)
    driver.submit(30, max_tokens=10, tenant="short")
    assert isinstance(driver.refusal(1, max_tokens=1, tenant="short"), RateLimitExceeded)
    driver.scheduler.cancel(first)
    driver.scheduler.cancel(first)
    driver.submit(40, max_tokens=20, tenant="short")
    assert isinstance(driver.refusal(1, max_tokens=1, tenant="short"), RateLimitExceeded)


def test_all_choices_of_a_request_have_room_in_a_quota_or_none() -> None:
    driver = Driver()
    error = driver.refusal(40, max_tokens=20, tenant="short", num_tokens_behind=60)
    assert isinstance(error, InvalidRequest)
    assert not driver.scheduler.num_in_flight["short"]
    other = driver.submit(40, max_tokens=20, tenant="short")
    error = driver.refusal(20, max_tokens=10, tenant="short", num_tokens_behind=30)
    assert isinstance(error, RateLimitExceeded)
    driver.scheduler.cancel(other)
    driver.submit(20, max_tokens=10, tenant="short", num_tokens_behind=30)


def test_who_may_generate_much_is_thought_to_end_as_answers_do() -> None:
    driver = Driver()
    for _ in range(8):
        driver.end_one(is_anyone_waiting=False)
    driver.run(10, max_tokens=1000, tenant="few")
    driver.submit(10, tenant="few")
    assert driver.refusal(10, tenant="few").retry_after_s <= 64 * STEP_S


def test_what_is_more_than_a_quota_will_never_be_let_in() -> None:
    error = Driver().refusal(90, max_tokens=11, tenant="short")
    assert isinstance(error, InvalidRequest)
    assert error.param == "max_tokens"


# Deadlines


@pytest.mark.parametrize("colocated", [False, True])
def test_a_worker_that_was_slow_is_tried_again(colocated: bool) -> None:
    """While all are refused for its pace nothing is computed that would show another."""
    driver = Driver(colocated=colocated)
    name = "d" if colocated else "p"
    for num_tokens in (10, BATCH_TOKENS) * 20:
        driver.stepped(name, num_tokens, 10 * (STEP_S * colocated + TOKEN_S * num_tokens))
    assert driver.scheduler._fleet.token_s() > 2 * TOKEN_S
    driver.submit(1000, timeout_s=2.0)


def test_one_step_that_took_long_refuses_nobody() -> None:
    """It may be the first of all, for which nothing was warm."""
    driver = Driver(measured=False)
    driver.stepped("p", BATCH_TOKENS, 10.0)
    driver.submit(1000, timeout_s=5.0)


@pytest.mark.parametrize("colocated", [False, True])
def test_what_cannot_be_in_time_is_refused_at_once(colocated: bool) -> None:
    driver = Driver(colocated=colocated)
    for _ in range(10):
        driver.submit(500)
    error = driver.refusal(100, timeout_s=3.0)
    assert type(error) is Unavailable
    assert error.retry_after_s == pytest.approx(2.1, rel=0.1)
    driver.submit(100, timeout_s=6.0)


@pytest.mark.parametrize("caches_prefixes", [False, True])
def test_a_prompt_that_is_computed_once_for_several_choices_is_awaited_once(
    caches_prefixes: bool,
) -> None:
    """Where that is kept: else each of them is computed behind the others."""
    driver = Driver()
    for name, role in (("p2", WorkerRole.PREFILL), ("d2", WorkerRole.DECODE)):
        driver.join(name, role, caches_prefixes=caches_prefixes)
    driver.submit(1000, timeout_s=1.5)
    if caches_prefixes:
        driver.submit(1000, timeout_s=1.5, repeats_prompt=True)
    else:
        error = driver.refusal(1000, timeout_s=1.5, repeats_prompt=True)
        assert type(error) is Unavailable
    assert type(driver.refusal(1000, timeout_s=1.5)) is Unavailable


def test_what_no_worker_could_do_in_time_need_not_come_again() -> None:
    assert type(Driver().refusal(1000, timeout_s=0.5)) is DeadlineExceeded
    assert type(Driver().refusal(1, timeout_s=0.0)) is DeadlineExceeded


def test_nothing_is_refused_for_a_pace_that_is_not_known() -> None:
    driver = Driver(measured=False)
    for _ in range(100):
        driver.submit(1000, timeout_s=0.01)


def test_only_what_goes_before_counts_by_the_tenants_shares() -> None:
    """Of the default tenant 4,000 tokens wait; of a heavier one, who has three quarters, none."""
    driver = Driver()
    for _ in range(4):
        driver.submit(1000)
    driver.submit(100, timeout_s=0.3, tenant="heavy")
    driver.submit(100, timeout_s=0.4, tenant="heavy")
    assert type(driver.refusal(100, timeout_s=0.3, tenant="heavy")) is Unavailable
    assert type(driver.refusal(100, timeout_s=3.0)) is Unavailable


def test_of_a_started_prompt_only_what_goes_before_counts() -> None:
    """Another tenant's turn comes between its chunks; its own tenant's later ones wait for all."""
    driver = Driver()
    long = driver.submit(2000)
    driver.effects()
    driver.grant(long)
    driver.effects()
    driver.submit(100, timeout_s=0.5, tenant="heavy")
    assert type(driver.refusal(100, timeout_s=0.5)) is Unavailable
    driver.submit(100, timeout_s=5.0)


def test_what_waits_too_long_ends_before_it_is_computed() -> None:
    driver = Driver(measured=False)
    first = driver.submit(50, timeout_s=1.0)
    driver.submit(50, timeout_s=inf)
    for num_tokens in (10, BATCH_TOKENS) * 20:
        driver.stepped("p", num_tokens, 0.03 * num_tokens)
    ((ended, event),) = (each for each in driver.effects() if isinstance(each, Emit))
    assert ended is first
    assert isinstance(event, DeadlineExceeded)


def test_what_is_over_ends_wherever_it_is() -> None:
    driver = Driver()
    running = driver.run(10, timeout_s=5.0)
    driver.now += 4.9
    reserving = driver.submit(20, timeout_s=0.1)
    driver.effects()
    later = driver.submit(30, timeout_s=50.0)
    assert driver.scheduler.next_deadline_s == pytest.approx(driver.now + 0.1)
    driver.scheduler.expire(driver.now + 0.05)
    assert driver.events() == []
    driver.scheduler.expire(driver.now + 0.11)
    effects = driver.effects()
    ended = [each for each in effects if isinstance(each, Emit)]
    assert {each.generation for each in ended} == {running, reserving}
    assert all(isinstance(each.event, DeadlineExceeded) for each in ended)
    removed = [
        (each.worker_id, each.command.sequence_id)
        for each in effects
        if isinstance(each, Send) and isinstance(each.command, Remove)
    ]
    assert sorted(removed) == [
        ("d", running.sequence_id),
        ("d", reserving.sequence_id),
        ("p", reserving.sequence_id),
    ]
    assert driver.scheduler.next_deadline_s == driver.now + 50.0
    driver.scheduler.cancel(later)
    assert driver.scheduler.next_deadline_s == inf
