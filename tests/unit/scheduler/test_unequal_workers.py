"""Workers of one model whose pools, or longest sequences, differ: one that came later may hold less
than what is queued already."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduler_driver import SchedulerDriver
from sim_worker import LONG_MODEL

from gateway.colocated_policies import colocated_policy
from gateway.generation import Generation
from gateway.local_prefill import LocalPrefillMode
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.worker_view import PoolUse
from tandem.core.commands import PrefillBatch, Reserve
from tandem.core.errors import ResourceExhausted, Unavailable
from tandem.core.reports import Armed, FirstToken, Reserved, Span, SpanKind, TransferDone
from tandem.core.worker import WorkerRole

# Of the longest sequence below; blocks have four tokens each.
LENGTH, MAX_TOKENS = 20, 20
LONGEST = LENGTH + MAX_TOKENS


class Driver(SchedulerDriver):
    def __init__(self, *, colocated: bool, local_prefill: LocalPrefillMode = "off") -> None:
        policy = colocated_policy("chunked", 100, 100) if colocated else None
        scheduler = Scheduler(
            queue_policy("fcfs"), Limits(100), colocated=policy, local_prefill=local_prefill
        )
        super().__init__(scheduler, max_num_seqs=4)

    @classmethod
    def with_large_one(cls, *, colocated: bool) -> Driver:
        driver = cls(colocated=colocated)
        if not colocated:
            driver.join("p", WorkerRole.PREFILL)
        driver.join("large", WorkerRole.DECODE)
        return driver

    def join(
        self, name: str, role: WorkerRole, num_blocks: int = 1000, max_model_len: int = 1000
    ) -> None:
        model = replace(LONG_MODEL, max_model_len=max_model_len)
        super().join(name, role, num_blocks=num_blocks, model=model)

    def submit(
        self, name: str = "r", length: int = LENGTH, max_tokens: int = MAX_TOKENS
    ) -> Generation:
        return super().submit(name, length, min(length, max_tokens))

    def ends(self) -> list[type]:
        """How requests end."""
        return list(map(type, self.events()))

    def taken_by(self) -> list[str]:
        """Who is asked to compute or to hold something."""
        return [
            each.worker_id
            for each in self.effects()
            if isinstance(getattr(each, "command", None), Reserve | PrefillBatch)
        ]


SMALL = {"num_blocks": LONGEST // 4 - 1}, {"max_model_len": LONGEST - 1}
# The last two would end it with its first token.
TOO_SMALL_FOR_THE_PROMPT = (
    {"num_blocks": LENGTH // 4 - 1},
    *({"max_model_len": LENGTH + more} for more in (-1, 0, 1)),
)


@pytest.mark.parametrize("smaller", SMALL)
@pytest.mark.parametrize("colocated", [False, True])
def test_a_decode_worker_is_not_given_what_it_could_not_hold_to_the_end(
    colocated: bool, smaller: dict[str, int]
) -> None:
    driver = Driver.with_large_one(colocated=colocated)
    driver.join("a small one", WorkerRole.DECODE, **smaller)
    for _ in range(3):
        driver.submit()
    assert set(driver.taken_by()) == {"large"}


@pytest.mark.parametrize("smaller", TOO_SMALL_FOR_THE_PROMPT)
def test_a_prefill_worker_is_not_given_what_it_cannot_compute(smaller: dict[str, int]) -> None:
    driver = Driver(colocated=False)
    driver.join("large", WorkerRole.PREFILL)
    driver.join("a small one", WorkerRole.PREFILL, **smaller)
    driver.join("d", WorkerRole.DECODE)
    generations = [driver.submit() for _ in range(3)]
    driver.taken_by()
    for each in generations:
        driver.grant(each)
    assert set(driver.taken_by()) <= {"large", "d"}
    assert {each.prefill_worker for each in generations} <= {"large", ""}


@pytest.mark.parametrize("max_tokens", [1, 2, MAX_TOKENS])
def test_a_prefill_worker_computes_what_it_does_not_end_too_soon(max_tokens: int) -> None:
    driver = Driver(colocated=False)
    driver.join("p", WorkerRole.PREFILL, max_model_len=LENGTH + min(max_tokens, 2))
    driver.join("d", WorkerRole.DECODE)
    generation = driver.submit(max_tokens=max_tokens)
    assert driver.ends() == []
    assert generation.prefill_worker == "p"


@pytest.mark.parametrize(
    ("smaller", "max_tokens"),
    [(TOO_SMALL_FOR_THE_PROMPT[0], 1), *((each, MAX_TOKENS) for each in TOO_SMALL_FOR_THE_PROMPT)],
)
def test_decode_workers_compute_what_no_prefill_worker_can(
    smaller: dict[str, int], max_tokens: int
) -> None:
    driver = Driver(colocated=False, local_prefill="auto")
    driver.join("a small one", WorkerRole.PREFILL, **smaller)
    driver.join("large", WorkerRole.DECODE)
    generation = driver.submit(max_tokens=max_tokens)
    assert driver.taken_by() == ["large"]
    assert generation.is_local


def test_what_no_worker_can_compute_ends_though_it_has_but_one_token() -> None:
    driver = Driver(colocated=False, local_prefill="auto")
    for name, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
        driver.join(name, role, num_blocks=LENGTH // 4 - 1)
    driver.submit(max_tokens=1)
    assert driver.ends() == [ResourceExhausted]


@pytest.mark.parametrize("max_tokens", [1, MAX_TOKENS])
def test_prefill_goes_on_behind_many_prompts_that_only_decode_workers_can_take(
    max_tokens: int,
) -> None:
    """More of them than the decode worker's next steps compute."""
    driver = Driver(colocated=False, local_prefill="auto")
    driver.join("a small one", WorkerRole.PREFILL, **TOO_SMALL_FOR_THE_PROMPT[0])
    driver.join("large", WorkerRole.DECODE)
    for number in range(3):
        driver.submit(f"long {number}", length=2 * LENGTH)
    short = driver.submit("short", length=4, max_tokens=max_tokens)
    driver.taken_by()
    assert short.prefill_worker == "a small one"


@pytest.mark.parametrize("smaller", SMALL)
def test_what_only_a_lost_worker_could_hold_ends_and_is_told_why(smaller: dict[str, int]) -> None:
    driver = Driver.with_large_one(colocated=True)
    driver.submit()
    assert driver.taken_by() == ["large"]
    driver.join("a small one", WorkerRole.DECODE, **smaller)
    driver.scheduler.worker_lost("large", Unavailable("gone"))
    assert driver.ends() == [ResourceExhausted]


@pytest.mark.parametrize("smaller", SMALL)
@pytest.mark.parametrize("colocated", [False, True])
def test_who_drains_keeps_what_the_others_are_too_small_for(
    colocated: bool, smaller: dict[str, int]
) -> None:
    driver = Driver.with_large_one(colocated=colocated)
    running = driver.submit()
    assert driver.taken_by() == ["large"]
    driver.grant(running)
    driver.join("a small one", WorkerRole.DECODE, **smaller)
    driver.scheduler.draining.cordon("large", 0.0, now=0.0)
    shorter = driver.submit("shorter", length=4)
    assert "a small one" in driver.taken_by()
    assert running.decode_worker == "large"
    assert shorter.decode_worker == "a small one"


def test_what_the_other_prefill_workers_are_too_small_for_stays_and_the_rest_goes_on() -> None:
    """Though a decode worker could compute it: that would begin again."""
    driver = Driver(colocated=False, local_prefill="auto")
    driver.join("large", WorkerRole.PREFILL)
    driver.join("d", WorkerRole.DECODE)
    long, short = driver.submit("long"), driver.submit("short", length=4)
    driver.taken_by()
    for each in (long, short):
        driver.grant(each)
    assert driver.taken_by() == ["large"]
    for _ in range(10):
        driver.stepped("large", LENGTH, 5.0, num_seqs=0)
    driver.join("a small one", WorkerRole.PREFILL, **TOO_SMALL_FOR_THE_PROMPT[0])
    driver.scheduler.draining.stops("large", 4.0, now=0.0)
    driver.taken_by()
    assert (long.prefill_worker, short.prefill_worker) == ("large", "a small one")
    driver.scheduler.expire(now=3.0)
    driver.taken_by()
    assert long.prefill_worker == "large"
    driver.scheduler.worker_lost("large", Unavailable("gone"))
    assert driver.taken_by() == ["d"]
    assert long.is_local


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_decode_workers_would_compute_goes_on_whatever_prefill_workers_do(
    is_lost: bool,
) -> None:
    """Those that are there are too small for it, and busy, or may be lost."""
    driver = Driver(colocated=False, local_prefill="auto")
    driver.join("large", WorkerRole.PREFILL)
    driver.join("d", WorkerRole.DECODE)
    running = driver.submit()
    driver.taken_by()
    driver.scheduler.report("d", Reserved(running.sequence_id, b"x", 1, 0))
    driver.taken_by()
    driver.scheduler.report("large", FirstToken(running.sequence_id, LENGTH, 7, None))
    driver.scheduler.report("d", Armed(running.sequence_id, LENGTH, 7, 0))
    driver.scheduler.report("large", TransferDone(running.sequence_id, 1))
    if is_lost:
        driver.scheduler.worker_suspected("large")
    else:
        driver.scheduler.worker_lost("large", Unavailable("gone"))
        driver.join("a small one", WorkerRole.PREFILL, **TOO_SMALL_FOR_THE_PROMPT[0])
        driver.scheduler._fleet.prefill["a small one"].batches = {1: 4, 2: 4}
    driver.join("other", WorkerRole.DECODE)
    driver.scheduler.heard("d", PoolUse(1000), 0.0, [Span(SpanKind.STEP, 0, 10**9)] * 10)
    driver.scheduler.draining.stops("d", 4.0, now=0.0)
    driver.taken_by()
    assert running.decode_worker == "other"


@pytest.mark.parametrize("smaller", SMALL)
@pytest.mark.parametrize("colocated", [False, True])
def test_what_only_a_draining_worker_could_hold_is_in_nobodys_way(
    colocated: bool, smaller: dict[str, int]
) -> None:
    driver = Driver.with_large_one(colocated=colocated)
    driver.join("a small one", WorkerRole.DECODE, **smaller)
    driver.scheduler.draining.cordon("large", 0.0, now=0.0)
    driver.submit()
    shorter = driver.submit("shorter", length=4)
    assert driver.ends() == [ResourceExhausted]
    assert shorter.decode_worker == "a small one"


def test_where_all_drain_what_one_of_them_could_hold_waits() -> None:
    driver = Driver.with_large_one(colocated=True)
    waiting = driver.submit()
    driver.scheduler.draining.cordon("large", 0.0, now=0.0)
    assert driver.ends() == []
    driver.scheduler.draining.uncordon("large", now=0.0)
    assert driver.taken_by() == ["large"]
    assert waiting.decode_worker == "large"
