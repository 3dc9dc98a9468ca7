"""Decisions of colocated serving: who is sent a prompt, and when."""

from __future__ import annotations

import pytest
from scheduler_driver import SchedulerDriver

from gateway.colocated_policies import COLOCATED_POLICIES, colocated_policy
from gateway.decode_view import MAX_STEPS_WAITING
from gateway.effects import Emit, Send
from gateway.generation import Phase
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tokens import Ended, ServedBy, ServingMode
from gateway.worker_view import PoolUse
from tandem.core.commands import Admit, Remove, Reserve, SetStepRule
from tandem.core.errors import Unavailable
from tandem.core.plan import StepRule
from tandem.core.reports import SequenceFailed
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

BUDGET = 8


class Driver(SchedulerDriver):
    """A scheduler over colocated workers."""

    def __init__(self, policy: str = "chunked", num_workers: int = 1, num_blocks: int = 64) -> None:
        limits = Limits(max_batch_tokens=16)
        colocated = colocated_policy(policy, limits.max_batch_tokens, BUDGET)
        scheduler = Scheduler(queue_policy("fcfs"), limits, colocated=colocated)
        super().__init__(scheduler, num_blocks=num_blocks)
        for number in range(num_workers):
            self.join(f"d{number}", WorkerRole.DECODE)

    def admitted(self) -> list[tuple[str, int]]:
        """(worker, sequence) of each new admission; each must follow its reservation."""
        sends = [each for each in self.effects() if isinstance(each, Send)]
        reserved, admitted = (
            [(each.worker_id, each.command.sequence_id) for each in commands]
            for commands in (
                [each for each in sends if isinstance(each.command, kind)]
                for kind in (Reserve, Admit)
            )
        )
        assert reserved == admitted
        return admitted


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        ("chunked", StepRule(BUDGET, mixed=True)),
        ("prefill-first", StepRule(16, mixed=False)),
        ("decode-first", StepRule(16, mixed=False)),
    ],
)
def test_a_worker_is_told_its_rule_before_anything_else(policy: str, rule: StepRule) -> None:
    driver = Driver(policy)
    driver.submit("r")
    first, *rest = driver.effects()
    assert first == Send("d0", SetStepRule(rule))
    assert [type(each.command) for each in rest] == [Reserve, Admit]


@pytest.mark.parametrize("policy", COLOCATED_POLICIES)
def test_decode_workers_alone_are_enough(policy: str) -> None:
    driver = Driver(policy, num_workers=0)
    with pytest.raises(Unavailable, match="no decode worker"):
        driver.submit("r")
    driver.join("d0", WorkerRole.DECODE)
    assert driver.scheduler.is_ready
    generation = driver.submit("r", max_tokens=1)
    assert driver.admitted() == [("d0", generation.sequence_id)]
    driver.grant(generation)
    driver.step(generation, reason=FinishReason.LENGTH)
    *_, ended, removed = driver.effects()
    by = ServedBy("d0", "d0", kv_bytes=0)
    assert ended == Emit(generation, Ended(FinishReason.LENGTH, by))
    assert removed == Send("d0", Remove(generation.sequence_id))


@pytest.mark.parametrize(("policy", "budget"), [("chunked", BUDGET), ("prefill-first", 16)])
def test_so_many_prompts_wait_on_the_worker_that_its_steps_are_full(
    policy: str, budget: int
) -> None:
    driver = Driver(policy)
    generations = [driver.submit(str(i), length=4) for i in range(16)]
    num_behind = MAX_STEPS_WAITING * budget // 4
    sent = [sequence_id for _, sequence_id in driver.admitted()]
    assert sent == [each.sequence_id for each in generations[: 1 + num_behind]]
    for each in generations[:3]:
        driver.grant(each)
    assert driver.admitted() == []
    driver.step(*generations[:3])
    assert len(driver.admitted()) == 3


def test_a_prompt_that_waits_behind_a_newer_one_still_counts() -> None:
    """For its grammar, say: the newer one has its first token before."""
    driver = Driver()
    under_way, waiting, newer = (
        driver.submit(name, length=length)
        for name, length in (("under way", 4), ("waiting", 12), ("newer", 4))
    )
    assert len(driver.admitted()) == 3
    for each in (under_way, waiting, newer):
        driver.grant(each)
    driver.step(newer)
    behind = [driver.submit(str(number), length=4) for number in range(6)]
    assert driver.admitted() == [("d0", behind[0].sequence_id)]


def test_decode_first_closes_its_batch_with_the_first_token() -> None:
    driver = Driver("decode-first")
    one, two = driver.submit("one"), driver.submit("two")
    assert len(driver.admitted()) == 2
    driver.grant(one)
    three = driver.submit("three")
    assert driver.admitted() == [("d0", three.sequence_id)]
    driver.step(one)
    four = driver.submit("four")
    assert driver.admitted() == []
    driver.step(one, two, three, reason=FinishReason.STOP)
    assert driver.admitted() == [("d0", four.sequence_id)]


def test_prompts_are_spread_over_the_workers() -> None:
    driver = Driver(num_workers=2)
    generations = [driver.submit(str(i)) for i in range(4)]
    assert driver.admitted() == [
        (f"d{index % 2}", each.sequence_id) for index, each in enumerate(generations)
    ]


def test_a_refused_reservation_goes_back_to_the_head_of_the_queue() -> None:
    driver = Driver()
    one, two = driver.submit("one"), driver.submit("two")
    assert len(driver.admitted()) == 2
    refused = SequenceFailed(one.sequence_id, "RESOURCE_EXHAUSTED", "full")
    driver.scheduler.report("d0", refused)
    assert driver.admitted() == []
    assert driver.scheduler.heard("d0", PoolUse(64), now=1.0)
    assert driver.admitted() == [("d0", one.sequence_id)]
    assert (one.attempts.num_past, two.attempts.num_past) == (1, 0)


def test_an_answer_goes_on_elsewhere_when_its_worker_is_lost() -> None:
    driver = Driver(num_workers=2)
    seen, unseen = driver.submit("seen", max_tokens=9), driver.submit("unseen")
    driver.admitted()
    for each in (seen, unseen):
        driver.grant(each)
    driver.step(seen)
    driver.effects()
    driver.scheduler.worker_lost("d0", Unavailable("lost"))
    effects = driver.effects()
    (reserve,) = (each.command for each in effects if isinstance(each.command, Reserve))
    assert (reserve.sequence_id, reserve.key.attempt) == (seen.sequence_id, 1)
    assert reserve.generated_token_ids == tuple(seen.token_ids)
    driver.scheduler.worker_lost("d1", Unavailable("lost"))
    assert not any(isinstance(each, Emit) for each in driver.effects())
    assert {seen.phase, unseen.phase} == {Phase.QUEUED}


def test_who_is_cancelled_before_the_first_token_was_served_by_one_worker_too() -> None:
    driver = Driver()
    generation = driver.submit("r")
    assert generation.served_by().mode is ServingMode.NONE
    driver.admitted()
    driver.grant(generation)
    driver.effects()
    driver.scheduler.cancel(generation)
    assert generation.served_by().mode is ServingMode.LOCAL
    assert generation.served_by().kv_bytes == 0


def test_a_prompt_that_was_granted_does_not_leave_a_suspected_worker_at_once() -> None:
    driver = Driver(num_workers=2)
    generation = driver.submit("r")
    driver.effects()
    driver.grant(generation)
    driver.scheduler.worker_suspected(generation.decode_worker)
    assert driver.admitted() == []
    assert generation.phase is Phase.PREFILLING
