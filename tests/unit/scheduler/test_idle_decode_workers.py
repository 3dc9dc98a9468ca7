"""Prompts that decode workers compute while they have nothing else to do."""

from __future__ import annotations

import pytest
from local_prefill_driver import BASE_S, TOKEN_S, Driver

from gateway.local_prefill import LocalPrefillMode
from gateway.prefix_index import PromptPrefix
from gateway.step_budgets import (
    HURRIED_BUDGET,
    MAX_IDLE_STRETCH,
    idle_token_budget,
    num_free_tokens,
)
from gateway.step_times import StepTimes
from gateway.tokens import Ended
from gateway.worker_view import PoolUse
from tandem.core.commands import PrefillBatch
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import (
    Armed,
    BatchDone,
    Preempted,
    SequenceFailed,
    Span,
    SpanKind,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

# Of a step that takes three times one without prompt tokens.
IDLE_BUDGET = int((MAX_IDLE_STRETCH - 1) * BASE_S / TOKEN_S)
# Too long to be computed beside streams.
LENGTH = 400


def busy_driver(mode: LocalPrefillMode = "auto", num_running: int = 0) -> Driver:
    """The prefill worker has work for half a second before whatever is shorter than its prompt."""
    driver = Driver(local_prefill=mode, num_running=num_running)
    driver.learn_idle("d")
    driver.keep_prefill_busy()
    return driver


# Who comes


@pytest.mark.parametrize("mode", ["auto", "idle"])
def test_a_prompt_of_any_length_comes_where_nothing_runs(mode: LocalPrefillMode) -> None:
    driver = busy_driver(mode)
    long = driver.submit("r", length=LENGTH)
    assert driver.local() == [long.sequence_id]


@pytest.mark.parametrize("mode", ["auto", "idle"])
def test_it_does_not_come_where_streams_run(mode: LocalPrefillMode) -> None:
    driver = busy_driver(mode, num_running=2)
    driver.submit("r", length=LENGTH)
    assert driver.local() == []


def test_one_comes_at_a_time() -> None:
    driver = busy_driver()
    first, second = (driver.submit(name, length=LENGTH) for name in ("first", "second"))
    assert driver.local() == [first.sequence_id]
    assert second.decode_worker == ""


def test_an_idle_prefill_worker_has_it_first() -> None:
    driver = Driver(num_running=0)
    driver.submit("r", length=LENGTH)
    assert driver.local() == []


def test_an_idle_prefill_worker_has_it_no_sooner_than_there_is_room_for_it() -> None:
    """Its blocks have KV that leaves slowly: in two seconds there will be enough."""
    driver = Driver(num_running=0)
    driver.join("e", WorkerRole.DECODE)
    for name in "de":
        driver.learn(name)
        driver.learn_idle(name)
    long = driver.submit("long", length=3800)
    driver.effects()
    driver.grant(long)
    while batches := driver.commands(PrefillBatch):
        for each in batches:
            driver.scheduler.report("p", BatchDone(each.batch_id, 1))
    waiting = driver.submit("r", length=LENGTH)
    assert driver.local() == []
    block_bytes = driver.scheduler._fleet.prefill["p"].info.layout.block_bytes
    frame = Span(SpanKind.FRAME_SENT, 0, 4 * 10**9, num_bytes=100 * block_bytes)
    driver.scheduler.heard("p", PoolUse(1000), 0.0, [frame])
    assert driver.local() == [waiting.sequence_id]


def test_room_comes_while_the_batches_before_it_run() -> None:
    """KV leaves meanwhile: a prompt waits for what takes longer, and not for one and the other."""
    driver = Driver()
    prefill = driver.scheduler._fleet.prefill["p"]
    frame = Span(SpanKind.FRAME_SENT, 0, 10**9, num_bytes=prefill.info.layout.block_bytes)
    driver.scheduler.heard("p", PoolUse(1000), 0.0, [frame])
    generation = driver.submit("r", length=LENGTH)
    own_s = prefill.first_token_s(generation, LENGTH)
    prefill.batches[1] = 250
    wait_s = prefill.queued_s
    assert prefill.first_token_s(generation, LENGTH) == pytest.approx(own_s + wait_s)
    prefill.num_used_blocks = prefill.info.num_blocks
    room_s = prefill.room_s(generation)
    assert room_s > wait_s
    assert prefill.first_token_s(generation, LENGTH) == pytest.approx(own_s + room_s)


@pytest.mark.parametrize(("max_tokens", "comes"), [(5, True), (100, False)])
def test_what_may_be_interrupted_counts_with_that(max_tokens: int, comes: bool) -> None:
    """By the answer to what the prefill worker computes, which is to come and may be long."""
    driver = busy_driver("idle")
    driver.submit("r", length=LENGTH, max_tokens=max_tokens)
    assert bool(driver.local()) is comes


def test_what_makes_no_way_is_not_interrupted() -> None:
    driver = busy_driver()
    short = driver.submit("r", max_tokens=100)
    assert driver.local() == [short.sequence_id]


def test_nothing_comes_for_nothing_while_no_step_with_prompt_tokens_was_seen() -> None:
    """They would seem to cost nothing."""
    driver = Driver(local_prefill="idle", measured=False, num_running=0)
    for num_tokens in (256, 64) * 10:
        driver.stepped("p", num_tokens, TOKEN_S * num_tokens)
    driver.stepped("d", 0, BASE_S)
    driver.keep_prefill_busy()
    driver.submit("r", length=1200)
    assert driver.local() == []


def test_short_prompts_do_not_come_beside_streams_if_only_idle_workers_take_any() -> None:
    for mode, comes in (("auto", True), ("idle", False)):
        driver = busy_driver(mode, num_running=1)
        driver.submit("short")
        assert bool(driver.local()) is comes


def test_nor_does_the_last_of_a_backlog() -> None:
    driver = busy_driver("idle", num_running=1)
    for number in range(8):
        driver.submit(str(number), length=150)
    assert driver.local() == []


def test_without_a_prefill_worker_every_prompt_comes() -> None:
    driver = Driver(local_prefill="idle", num_running=2)
    driver.scheduler.worker_suspected("p")
    generation = driver.submit("r", length=LENGTH)
    assert driver.local() == [generation.sequence_id]
    assert driver.rule().prefill_token_budget >= HURRIED_BUDGET


# What it is computed by


def test_steps_are_longer_while_nothing_runs() -> None:
    driver = Driver(num_running=0)
    assert driver.rule().idle_token_budget == HURRIED_BUDGET
    driver.learn_idle("d")
    assert driver.rule().idle_token_budget == pytest.approx(IDLE_BUDGET, rel=0.1)


def test_steps_without_sequences_do_not_make_tokens_beside_many_look_free() -> None:
    """Those take 50 ms without prompt tokens, and these 20 ms."""
    driver = Driver(measured=False, num_running=0)
    for num_tokens in (256, 64) * 10:
        driver.stepped("p", num_tokens, TOKEN_S * num_tokens)
    for _ in range(30):
        driver.stepped("d", 0, 0.05, num_seqs=30)
    driver.effects()
    driver.learn_idle("d")
    times = driver.scheduler._fleet.decode["d"].step_times
    assert num_free_tokens(times, TOKEN_S) == 0


def test_an_idle_budget_is_known_before_anything_is() -> None:
    assert idle_token_budget(StepTimes()) == HURRIED_BUDGET


def test_a_prompt_makes_way_for_streams_until_it_would_have_been_through_elsewhere() -> None:
    driver = busy_driver()
    driver.submit("r", length=LENGTH)
    assert driver.rule().prefill_token_budget == 1
    driver.scheduler.heard("d", PoolUse(1000), 0.5)
    driver.stepped("d", IDLE_BUDGET, MAX_IDLE_STRETCH * BASE_S, num_seqs=0)
    assert driver.rule().prefill_token_budget == 1
    driver.scheduler.heard("d", PoolUse(1000), 1.0)
    driver.stepped("d", IDLE_BUDGET, MAX_IDLE_STRETCH * BASE_S, num_seqs=0)
    assert driver.rule().prefill_token_budget == HURRIED_BUDGET


def test_it_makes_no_way_while_many_wait_unless_it_never_may() -> None:
    for mode, budget in (("auto", HURRIED_BUDGET), ("idle", 1)):
        driver = busy_driver(mode)
        driver.submit("r", length=LENGTH)
        driver.effects()
        for number in range(3):
            driver.submit(str(number), length=700)
        driver.stepped("d", IDLE_BUDGET, MAX_IDLE_STRETCH * BASE_S, num_seqs=0)
        assert driver.rule().prefill_token_budget == budget


def test_a_short_one_does_not_make_way() -> None:
    driver = busy_driver()
    driver.submit("r")
    assert driver.rule().prefill_token_budget == HURRIED_BUDGET


@pytest.mark.parametrize("is_refused", [True, False])
def test_who_has_made_way_and_is_gone_is_forgotten(is_refused: bool) -> None:
    driver = busy_driver()
    generation = driver.submit("r", length=LENGTH)
    assert driver.rule().prefill_token_budget == 1
    if is_refused:
        refused = SequenceFailed(generation.sequence_id, "RESOURCE_EXHAUSTED", "full")
        driver.scheduler.report("d", refused)
        driver.scheduler.heard("d", PoolUse(1000), 0.1)
    driver.scheduler.cancel(generation)
    short = driver.submit("short")
    assert driver.local() == [short.sequence_id]
    assert driver.rule().prefill_token_budget == HURRIED_BUDGET


# What runs


def test_what_runs_is_counted() -> None:
    driver = Driver(num_running=3)
    worker = driver.scheduler._fleet.decode["d"]
    first, second, third = driver.streams
    assert worker.num_running == 3
    driver.scheduler.report("d", Armed(first.sequence_id, 8, 50, 0))
    driver.scheduler.report("d", Preempted(first.sequence_id, parked=True))
    assert worker.num_running == 3
    driver.scheduler.cancel(first)
    driver.scheduler.report("d", Preempted(second.sequence_id))
    assert worker.num_running == 1
    driver.step(third, reason=FinishReason.LENGTH)
    assert worker.num_running == 0


def test_a_prompt_that_is_computed_here_runs_from_its_first_token_on() -> None:
    driver = busy_driver()
    generation = driver.submit("r")
    driver.effects()
    worker = driver.scheduler._fleet.decode["d"]
    driver.grant(generation)
    assert worker.num_running == 0
    driver.step(generation)
    assert worker.num_running == 1
    driver.step(generation, reason=FinishReason.LENGTH)
    assert any(isinstance(event, Ended) for event in driver.events())
    assert worker.num_running == 0


# What is left of it


def test_what_turned_out_not_to_be_cached_is_left() -> None:
    """The hint said that all but four tokens were; the worker has had none of them any more."""
    driver = Driver(num_running=0)
    driver.scheduler.worker_suspected("p")
    worker = driver.scheduler._fleet.decode["d"]
    prefix = PromptPrefix((5,) * LENGTH, block_size=4, salt=b"")
    worker.prefix_index.apply(CacheChanges(added=tuple(prefix.digests())))
    first, second = (driver.submit(name, length=LENGTH) for name in ("first", "second"))
    driver.effects()
    for generation in (first, second):
        driver.grant(generation)
    assert worker.num_prompt_tokens_left == 2 * LENGTH
    driver.stepped("d", 128, 0.1, num_seqs=0)
    assert (first.num_tokens_left, second.num_tokens_left) == (LENGTH - 128, LENGTH)
