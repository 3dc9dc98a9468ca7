"""Which prompts a decode worker computes by itself, and how much of them in a step."""

from __future__ import annotations

from typing import Any

import pytest
from local_prefill_driver import (
    BASE_S,
    GPU_BASE_S,
    GPU_TOKEN_S,
    LOST,
    TOKEN_S,
    Driver,
    gpu_driver,
    roofline_s,
)

from gateway.generation import Phase
from gateway.step_budgets import (
    FREE_SHARE,
    HURRIED_BUDGET,
    MAX_FIRST_BUDGET,
    MAX_STRETCH,
    num_free_tokens,
    token_budget,
)
from gateway.step_times import MAX_GROWTH, Pace, StepTimes
from gateway.tokens import Ended, ServingMode
from gateway.worker_view import PoolUse
from tandem.core.commands import Remove, SetRecomputeCost, SetStepRule
from tandem.core.plan import StepRule
from tandem.core.reports import SequenceFailed
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

NUM_FITTING = int(FREE_SHARE * GPU_BASE_S / GPU_TOKEN_S)


# Where a prompt goes


def test_an_idle_prefill_worker_takes_every_prompt() -> None:
    """However slow it is: running streams pay nothing for it."""
    driver = Driver(measured=False)
    driver.stepped("p", 64, 10.0)
    driver.learn("d")
    driver.submit("r", length=8)
    assert driver.local() == []


def test_a_short_prompt_behind_long_ones_is_computed_where_it_is_decoded() -> None:
    driver = Driver()
    generation = driver.computing()
    assert generation.phase is Phase.PREFILLING
    driver.step(generation, reason=FinishReason.LENGTH)
    *_, ended = driver.events()
    assert isinstance(ended, Ended)
    assert ended.served_by.mode is ServingMode.LOCAL
    assert (ended.served_by.decode_worker, ended.served_by.kv_bytes) == ("d", 0)


def test_a_prompt_that_a_prefill_worker_has_sooner_waits_for_it() -> None:
    """It would take dozens of steps."""
    driver = Driver()
    driver.keep_prefill_busy()
    driver.submit("r", length=700)
    assert driver.local() == []


@pytest.mark.parametrize(("policy", "is_behind"), [("fcfs", True), ("shortest-first", False)])
def test_what_a_prefill_worker_has_started_counts_if_it_goes_first(
    policy: str, is_behind: bool
) -> None:
    driver = Driver(policy=policy, num_running=0)
    driver.learn_idle("d")
    driver.keep_prefill_busy()
    behind = driver.submit("behind", length=1500)
    assert driver.local() == [behind.sequence_id] * is_behind


def test_decode_workers_take_what_they_are_sooner_with_and_no_more() -> None:
    """Each waits behind those before it, and for a few steps at the most."""
    driver = Driver()
    driver.keep_prefill_busy()
    for number in range(20):
        driver.submit(str(number))
    assert len(driver.local()) in (1, 2)
    # As its prompts get on it takes more.
    for _ in range(4):
        driver.stepped("d", 16, BASE_S + TOKEN_S * 16)
    assert len(driver.local()) in (1, 2)


def test_what_takes_many_steps_waits_while_no_more_wait_than_run_here() -> None:
    """Running streams would pay for it all that time."""
    driver = Driver()
    driver.keep_prefill_busy()
    driver.submit("longer", length=150)
    assert driver.local() == []
    short = driver.submit("short")
    assert driver.local() == [short.sequence_id]


def test_the_decode_worker_with_the_fewest_prompts_left_takes_it() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    driver.learn("e")
    driver.keep_prefill_busy()
    first, second = driver.submit("first"), driver.submit("second")
    driver.effects()
    assert {first.decode_worker, second.decode_worker} == {"d", "e"}


@pytest.mark.parametrize(
    ("details", "options"),
    [
        ({"max_tokens": 1}, {}),  # It needs no decode worker.
        ({}, {"local_prefill": "off"}),
    ],
)
def test_who_is_never_computed_there(details: dict[str, Any], options: dict[str, Any]) -> None:
    driver = Driver(**options)
    driver.keep_prefill_busy()
    driver.submit("r", **details)
    assert driver.local() == []


def test_while_nothing_is_known_prefill_workers_compute_everything() -> None:
    driver = Driver(measured=False)
    long = driver.submit("long", length=2048)
    driver.effects()
    driver.grant(long)
    driver.submit("r")
    assert driver.local() == []


def test_without_a_prefill_worker_that_is_trusted_nothing_waits_for_one() -> None:
    driver = Driver()
    driver.scheduler.worker_suspected("p")
    generation = driver.submit("r")
    assert driver.local() == [generation.sequence_id]


# What running streams pay


def test_what_waits_for_a_suspected_prefill_worker_waits_on_until_its_turn() -> None:
    driver = Driver()
    queued = [driver.submit(f"queued {number}", length=200) for number in range(50)]
    driver.effects()
    before = [each for each in queued if each.is_local]
    driver.scheduler.worker_suspected("p")
    driver.effects()
    given = [each for each in queued if each.is_local and each not in before]
    assert len(given) <= 2
    driver.scheduler.worker_trusted("p")
    driver.effects()
    assert sum(each.is_local for each in queued) == len(before) + len(given)


def test_a_worker_is_told_its_budget_before_anything_else_and_when_it_changes() -> None:
    driver = Driver(measured=False, num_running=0)
    assert driver.commands(SetStepRule) == [
        SetStepRule(StepRule(HURRIED_BUDGET, True, HURRIED_BUDGET))
    ]
    driver.submit("r")
    assert driver.commands(SetStepRule) == []
    for num_tokens in (0, 16, 8) * 10:
        driver.stepped("d", num_tokens, BASE_S + TOKEN_S / 8 * num_tokens)
    (command,) = driver.commands(SetStepRule)
    expected = (MAX_STRETCH - 1) * BASE_S / (TOKEN_S / 8)
    assert command.rule.prefill_token_budget == pytest.approx(expected, rel=0.1)
    driver.stepped("d", 16, BASE_S + TOKEN_S / 8 * 16)
    assert driver.commands(SetStepRule) == []


def test_without_local_prefill_no_rule_is_set() -> None:
    assert Driver(local_prefill="off").commands(SetStepRule) == []


@pytest.mark.parametrize(
    ("base_s", "token_s"), [(0.02, 4e-4), (0.02, 2e-4), (5e-3, 3e-5), (0.06, 1e-3), (0.09, 1e-3)]
)
def test_a_step_takes_so_many_times_one_without_prompt_tokens_or_has_the_least_of_them(
    base_s: float, token_s: float
) -> None:
    times = StepTimes()
    for _ in range(50):
        for num_tokens in (0, token_budget(times, Pace(token_s, token_s), is_hurried=True)):
            times.observe(num_tokens, base_s + token_s * num_tokens)
    expected = max(HURRIED_BUDGET, (MAX_STRETCH - 1) * base_s / token_s)
    assert token_budget(times, Pace(token_s, token_s), is_hurried=True) == pytest.approx(
        expected, rel=0.1, abs=1
    )


def test_prompts_go_on_where_every_token_is_dear() -> None:
    times = StepTimes()
    for num_tokens in (0, 16) * 10:
        times.observe(num_tokens, 0.01 + 0.1 * num_tokens)
    assert token_budget(times, Pace(0.1, 0.1), is_hurried=True) == HURRIED_BUDGET


# Where tokens are nearly free


def test_a_step_takes_as_many_free_tokens_as_fit_into_its_time() -> None:
    times = StepTimes()
    for _ in range(50):
        for num_tokens in (0, token_budget(times, Pace(GPU_TOKEN_S, GPU_TOKEN_S), is_hurried=True)):
            times.observe(num_tokens, roofline_s(num_tokens))
    assert token_budget(times, Pace(GPU_TOKEN_S, GPU_TOKEN_S), is_hurried=True) == pytest.approx(
        NUM_FITTING, rel=0.02
    )


def test_where_a_step_pays_for_having_any_few_steps_have_many() -> None:
    """Single tokens alone have a graph; others' kernels are launched one by one."""
    bare_s, launches_s, hidden_s = 1.35e-3, 1.6e-3, 1e-6
    pace, times = Pace(4e-6, 4e-6), StepTimes()
    for _ in range(4):
        num_left = 250
        while num_left:
            num_tokens = min(num_left, token_budget(times, pace, is_hurried=True))
            times.observe(0, bare_s)
            times.observe(num_tokens, bare_s + launches_s + hidden_s * num_tokens)
            num_left -= num_tokens
    num_fitting = int(FREE_SHARE * bare_s / pace.token_s)
    assert num_free_tokens(times, pace.token_s) == num_fitting
    assert token_budget(times, pace, is_hurried=True) == num_fitting


def test_they_are_not_free_where_a_step_pays_many_times_its_own_time_for_having_any() -> None:
    times = StepTimes()
    for num_tokens in (0, 64, 0, 128) * 20:
        times.observe(num_tokens, 5 * GPU_BASE_S if num_tokens else GPU_BASE_S)
    assert num_free_tokens(times, GPU_TOKEN_S) == 0


def test_long_prompts_are_computed_where_tokens_are_free_once_that_is_known() -> None:
    driver = gpu_driver()
    driver.stepped("d", 0, GPU_BASE_S)
    driver.keep_prefill_busy()
    long = driver.submit("long too", length=1850)
    assert driver.local() == []
    for num_tokens in (0, 64) * 10:
        driver.stepped("d", num_tokens, roofline_s(num_tokens))
    assert driver.local() == [long.sequence_id]


def test_one_prompt_shows_what_tokens_cost() -> None:
    driver = gpu_driver()
    driver.stepped("d", 0, GPU_BASE_S)
    driver.keep_prefill_busy()
    first, second = (driver.submit(name, length=800) for name in ("first", "second"))
    assert driver.local() == [first.sequence_id]
    assert second.phase is Phase.QUEUED


def test_much_faster_prefill_workers_are_no_measure_of_a_first_step() -> None:
    times = StepTimes()
    times.observe(0, 0.03)
    assert token_budget(times, Pace(5e-6, 5e-6), is_hurried=True) == MAX_FIRST_BUDGET
    times.observe(HURRIED_BUDGET, 0.03)
    assert token_budget(times, Pace(5e-6, 5e-6), is_hurried=True) == MAX_GROWTH * HURRIED_BUDGET


def test_a_prefill_workers_first_step_does_not_make_tokens_look_free() -> None:
    """Nothing tells yet how much of it the tokens took."""
    driver = Driver(measured=False, num_running=0)
    driver.stepped("d", 0, BASE_S)
    driver.stepped("p", 32, 0.05)
    assert driver.scheduler._fleet.token_s() < 0.05 / 32 / 4
    rules = [command.rule for command in driver.commands(SetStepRule)]
    assert rules == [StepRule(HURRIED_BUDGET, True, HURRIED_BUDGET)]


def test_tokens_that_cost_nothing_so_far_are_no_promise_of_many_more() -> None:
    """More sequences run than when a step had no prompt tokens: what they take seems to be what it
    costs to have any."""
    times, step_s = StepTimes(), 1.5 * GPU_BASE_S
    times.observe(0, GPU_BASE_S)
    for num_tokens in (64, 128) * 20:
        times.observe(num_tokens, step_s)
    assert num_free_tokens(times, GPU_TOKEN_S) == NUM_FITTING
    assert token_budget(times, Pace(GPU_TOKEN_S, GPU_TOKEN_S), is_hurried=True) == NUM_FITTING


def test_free_tokens_are_no_reason_to_leave_a_prefill_worker_idle() -> None:
    driver = gpu_driver()
    for num_tokens in (0, 64) * 10:
        driver.stepped("d", num_tokens, roofline_s(num_tokens))
    driver.submit("r", length=2048)
    assert driver.local() == []


# What computing again costs


def test_a_decode_worker_is_told_what_computing_again_costs_when_that_has_changed() -> None:
    driver = Driver(num_running=0)

    def told() -> list[float]:
        return [each.token_s for each in driver.commands(SetRecomputeCost)]

    assert told() == [pytest.approx(TOKEN_S, rel=0.01)]
    for slower, is_told in ((1.2, False), (3, True), (3, False)):
        for num_tokens in (256, 64) * 50:
            driver.stepped("p", num_tokens, slower * TOKEN_S * num_tokens)
        assert told() == [pytest.approx(slower * TOKEN_S, rel=0.01)] * is_told


# What can go wrong


def test_a_prompt_whose_worker_is_lost_begins_anew() -> None:
    driver = Driver()
    generation = driver.computing()
    driver.stepped("d", 16, 0.04)
    assert generation.num_scheduled == 16
    driver.scheduler.worker_lost("d", LOST)
    assert driver.events() == []
    assert (generation.phase, generation.attempts.num_past) == (Phase.QUEUED, 1)
    assert generation.num_scheduled == 0


def test_one_that_has_shown_a_token_goes_on_from_it_when_its_worker_is_lost() -> None:
    driver = Driver()
    generation = driver.computing()
    driver.step(generation)
    driver.effects()
    driver.scheduler.worker_lost("d", LOST)
    assert LOST not in driver.events()
    assert generation.phase is Phase.QUEUED
    assert generation.num_resumed_tokens == 1


def test_a_lost_prefill_worker_takes_none_of_them_with_it() -> None:
    driver = Driver()
    generation = driver.computing()
    driver.scheduler.worker_lost("p", LOST)
    driver.step(generation, reason=FinishReason.LENGTH)
    assert any(isinstance(event, Ended) for event in driver.events())


def test_a_cancelled_prompt_leaves_its_worker() -> None:
    driver = Driver()
    generation = driver.computing()
    driver.scheduler.cancel(generation)
    assert Remove(generation.sequence_id) in driver.commands(Remove)
    second = driver.submit("second")
    assert driver.local() == [second.sequence_id]


def test_a_refused_prompt_goes_back_to_the_queue() -> None:
    driver = Driver()
    driver.keep_prefill_busy()
    generation = driver.submit("r")
    assert driver.local() == [generation.sequence_id]
    refused = SequenceFailed(generation.sequence_id, "RESOURCE_EXHAUSTED", "full")
    driver.scheduler.report("d", refused)
    assert driver.local() == []
    assert generation.phase is Phase.QUEUED
    driver.scheduler.heard("d", PoolUse(1000), now=1.0)
    assert driver.local() == [generation.sequence_id]
