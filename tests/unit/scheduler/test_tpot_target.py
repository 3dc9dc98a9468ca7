"""Who runs is to have a token in so many seconds: prompt tokens that steps take beside them."""

from __future__ import annotations

from math import inf

import pytest
from local_prefill_driver import BASE_S, GPU_BASE_S, GPU_TOKEN_S, TOKEN_S, Driver, roofline_s
from scheduler_driver import SchedulerDriver

from gateway.colocated_policies import COLOCATED_POLICIES, colocated_policy
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.step_budgets import HURRIED_BUDGET, TARGET_SHARE, num_on_target
from gateway.step_times import StepTimes
from gateway.worker_view import PoolUse
from tandem.core.plan import StepRule
from tandem.core.worker import WorkerRole

# What a step of the driver's decode worker may have beside what runs: 25 ms, or 7.
LOOSE_S = (BASE_S + 25 * TOKEN_S) / TARGET_SHARE
TIGHT_S = (BASE_S + 7 * TOKEN_S) / TARGET_SHARE
FIRST_BUDGET, MAX_BUDGET = 256, 512
# What fits into the time that reading takes on the GPU.
NUM_HIDDEN = GPU_BASE_S / GPU_TOKEN_S


def linear_s(num_tokens: int) -> float:
    return BASE_S + TOKEN_S * num_tokens


# Decode workers beside prefill workers


@pytest.mark.parametrize(("target_s", "comes"), [(LOOSE_S, True), (TIGHT_S, False)])
@pytest.mark.parametrize("length", [32, 300])
def test_a_prompt_of_any_length_comes_if_running_sequences_can_bear_it(
    target_s: float, comes: bool, length: int
) -> None:
    driver = Driver(tpot_target_s=target_s, num_running=8)
    driver.keep_prefill_busy()
    driver.submit("r", length=length)
    assert bool(driver.local()) is comes


def test_of_what_tokens_cost_there_one_prompt_is_to_tell() -> None:
    driver = Driver(tpot_target_s=LOOSE_S, measured=False, num_running=0)
    driver.stepped("p", 256, 256 * TOKEN_S)
    driver.stepped("d", 0, BASE_S)
    driver.run("stream")
    driver.keep_prefill_busy()
    driver.submit("long", length=2000)
    assert driver.local() == []


@pytest.mark.parametrize(("target_s", "comes"), [(LOOSE_S, True), (TIGHT_S, False)])
def test_so_does_the_last_of_a_backlog(target_s: float, comes: bool) -> None:
    driver = Driver(tpot_target_s=target_s, num_running=1)
    driver.keep_prefill_busy()
    for number in range(8):
        driver.submit(str(number), length=150)
    assert bool(driver.local()) is comes


@pytest.mark.parametrize("target_s", [LOOSE_S, TIGHT_S])
def test_a_prompt_comes_where_nothing_runs(target_s: float) -> None:
    driver = Driver(tpot_target_s=target_s, num_running=0)
    driver.learn_idle("d")
    driver.keep_prefill_busy()
    long = driver.submit("r", length=400)
    assert driver.local() == [long.sequence_id]


def test_steps_have_as_many_tokens_as_end_in_time() -> None:
    assert Driver(tpot_target_s=LOOSE_S).rule().prefill_token_budget == pytest.approx(25, rel=0.2)
    assert Driver(tpot_target_s=2 * LOOSE_S).rule().prefill_token_budget == pytest.approx(
        (2 * LOOSE_S * TARGET_SHARE - BASE_S) / TOKEN_S, rel=0.2
    )


def test_without_a_prefill_worker_prompts_go_on_whatever_is_asked() -> None:
    driver = Driver(tpot_target_s=TIGHT_S)
    driver.scheduler.worker_suspected("p")
    generation = driver.submit("r", length=400)
    assert driver.local() == [generation.sequence_id]
    assert driver.rule().prefill_token_budget == HURRIED_BUDGET


def test_a_prompt_that_was_promised_its_first_token_goes_on_as_well() -> None:
    """A sequence came to run beside it, and it has made way for as long as it would."""
    driver = Driver(tpot_target_s=TIGHT_S, num_running=0)
    driver.learn_idle("d")
    driver.keep_prefill_busy()
    generation = driver.submit("r", length=400)
    driver.effects()
    driver.grant(generation)
    assert driver.rule().prefill_token_budget == 1
    driver.scheduler.heard("d", PoolUse(1000), 60.0, [])
    driver.stepped("d", 0, BASE_S)
    assert driver.rule().prefill_token_budget == HURRIED_BUDGET


# What a worker's steps tell


def settle(step_s: object, token_s: float, target_s: float) -> tuple[int, float]:
    """The budget that is come to, and the longest step on the way there behind the first few."""
    assert callable(step_s)
    times, longest_s, budget = StepTimes(), 0.0, 0
    for number in range(200):
        budget = max(HURRIED_BUDGET, num_on_target(times, token_s or times.least_token_s, target_s))
        for num_tokens in (0, budget):
            times.observe(num_tokens, step_s(num_tokens))
        if number >= 10:
            longest_s = max(longest_s, step_s(budget))
    return budget, longest_s


@pytest.mark.parametrize("token_s", [TOKEN_S, 0.0], ids=["known", "learned"])
def test_where_every_token_costs_its_time(token_s: float) -> None:
    budget, longest_s = settle(linear_s, token_s, LOOSE_S)
    assert budget == pytest.approx(25, rel=0.1)
    assert longest_s <= LOOSE_S


@pytest.mark.parametrize("token_s", [GPU_TOKEN_S, 0.0], ids=["known", "learned"])
@pytest.mark.parametrize("stretch", [1.25, 1.5, 2, 4])
def test_where_tokens_hide_behind_what_is_read(token_s: float, stretch: float) -> None:
    target_s = stretch * GPU_BASE_S
    budget, longest_s = settle(roofline_s, token_s, target_s)
    assert 0.8 * TARGET_SHARE * stretch * NUM_HIDDEN < budget
    assert longest_s <= target_s


def test_nothing_fits_into_less_than_a_step_takes_anyway() -> None:
    times = StepTimes()
    for num_tokens in (0, 16) * 10:
        times.observe(num_tokens, linear_s(num_tokens))
    assert num_on_target(times, TOKEN_S, BASE_S) == 0


# Colocated workers


class Colocated(SchedulerDriver):
    """A scheduler with one decode worker, which computes all."""

    def __init__(self, policy: str, target_s: float) -> None:
        colocated = colocated_policy(policy, MAX_BUDGET, FIRST_BUDGET, target_s)
        limits = Limits(max_batch_tokens=MAX_BUDGET)
        super().__init__(Scheduler(queue_policy("fcfs"), limits, colocated=colocated))
        self.join("d", WorkerRole.DECODE)

    @property
    def rule(self) -> StepRule:
        return self.scheduler._fleet.decode["d"].step_rule

    def run(self) -> None:
        """Steps by the rule, on a CPU."""
        for _ in range(20):
            self.stepped("d", 0, linear_s(0))
            budget = self.rule.prefill_token_budget
            self.stepped("d", budget, linear_s(budget))


def test_chunks_become_what_ends_in_time() -> None:
    colocated = Colocated("chunked", LOOSE_S)
    assert colocated.rule == StepRule(FIRST_BUDGET, mixed=True)
    colocated.run()
    assert colocated.rule.prefill_token_budget == pytest.approx(25, rel=0.3)
    assert linear_s(colocated.rule.prefill_token_budget) <= LOOSE_S


def test_steps_without_sequences_stay_as_they_are() -> None:
    colocated = Colocated("chunked", LOOSE_S)
    colocated.run()
    assert colocated.rule.budget(is_idle=True) == FIRST_BUDGET


def test_chunks_are_never_so_small_that_prompts_stand_still_nor_larger_than_a_batch() -> None:
    for target_s, budget in ((BASE_S, HURRIED_BUDGET), (1000.0, MAX_BUDGET)):
        colocated = Colocated("chunked", target_s)
        colocated.run()
        assert colocated.rule.prefill_token_budget == budget


@pytest.mark.parametrize("policy", sorted(COLOCATED_POLICIES))
@pytest.mark.parametrize("target_s", [0.0, LOOSE_S])
def test_only_chunks_know_a_target(policy: str, target_s: float) -> None:
    colocated = Colocated(policy, target_s)
    first = colocated.rule
    colocated.run()
    assert (colocated.rule == first) is (policy != "chunked" or not target_s)
    assert colocated.scheduler._fleet.decode["d"].least_token_s < inf
