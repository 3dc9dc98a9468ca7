"""What becomes of the sequences of a step in which the engine failed."""

from __future__ import annotations

import pytest
from local_prefill_driver import Driver as Local
from test_colocated_batching import Driver as Colocated
from test_scheduler import Driver

from gateway.effects import Emit, Send
from gateway.generation import MAX_RESTARTS, NUM_GOOD_TOKENS, Generation, Phase
from gateway.tokens import Ended
from gateway.worker_reports import FAILURE_PENALTY_S
from gateway.worker_view import PoolUse
from tandem.core.commands import PrefillBatch, Reserve
from tandem.core.reports import (
    Armed,
    BatchDone,
    FirstToken,
    Preempted,
    SequenceFailed,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole


class Steps(Driver):
    """Also lets steps run, well or not."""

    def arm(self, generation: Generation) -> None:
        """Its prompt is computed, and its KV is there: it has its next token."""
        self.effects()
        self.grant(generation)
        for batch in self.commands(PrefillBatch):
            self.scheduler.report("p", BatchDone(batch.batch_id, 1))
        position = generation.num_context_tokens
        self.scheduler.report("d", Armed(generation.sequence_id, position, 50, 0))

    def prefill_batches(self, name: str) -> dict[int, int]:
        """What a prefill worker runs or will run."""
        return self.scheduler._fleet.prefill[name].batches

    def fail(self, *generations: Generation, worker_id: str = "d") -> None:
        """The engine fails in a step of these."""
        failures = [
            SequenceFailed(each.sequence_id, "ENGINE_FAILED", "the engine failed: OutOfMemoryError")
            for each in generations
        ]
        for failure in failures:
            self.scheduler.report(worker_id, failure)


def test_all_of_a_failed_step_go_on_behind_their_tokens() -> None:
    driver = Steps()
    both = [driver.submit(name) for name in ("one", "two")]
    for each in both:
        driver.arm(each)
    driver.step(*both)
    driver.events()
    driver.fail(*both)
    effects = driver.effects()
    reserves = [
        each.command
        for each in effects
        if isinstance(each, Send) and isinstance(each.command, Reserve)
    ]
    assert [each.generated_token_ids for each in reserves] == [(50, 60), (50, 60)]
    assert not any(isinstance(each, Emit) for each in effects)
    for each in both:
        driver.arm(each)
    driver.step(*both, reason=FinishReason.STOP)
    ends = [each for each in driver.events() if isinstance(each, Ended)]
    assert [each.served_by.num_losses for each in ends] == [1, 1]


def test_a_prompt_whose_step_failed_is_computed_again() -> None:
    driver = Steps()
    generation = driver.prefilling()
    driver.fail(generation, worker_id="p")
    (reserve,) = driver.commands(Reserve)
    assert reserve.key.attempt == 1


def test_who_is_in_a_failed_step_again_is_the_cause_and_its_mate_goes_on() -> None:
    driver = Steps()
    mate, cause = driver.submit("mate", max_tokens=9), driver.submit("cause", max_tokens=9)
    for each in (mate, cause):
        driver.arm(each)
    driver.fail(mate, cause)
    driver.arm(mate)
    driver.step(mate)
    driver.arm(cause)
    driver.events()
    driver.fail(mate, cause)
    (error,) = driver.events()
    assert (error.reason, error.message) == ("ENGINE_FAILED", "the engine failed: OutOfMemoryError")
    assert (cause.phase, cause.num_failed_steps) == (Phase.ENDED, 2)
    assert (mate.attempts.num_past, mate.setbacks.num_losses) == (2, 2)


@pytest.mark.parametrize("has_first_token", [False, True])
def test_a_prompt_that_fails_each_time_is_computed_twice(has_first_token: bool) -> None:
    """Its first token, if it gets that far, does not say that it would come through a step of
    another kind."""
    driver = Steps()
    generation = driver.submit("r", max_tokens=9)
    for _ in range(2):
        if has_first_token:
            driver.arm(generation)
            driver.events()
            driver.fail(generation)
        else:
            driver.effects()
            driver.grant(generation)
            driver.effects()
            driver.fail(generation, worker_id="p")
    (error,) = driver.events()
    assert error.reason == "ENGINE_FAILED"


def test_with_good_steps_in_between_it_is_a_loss_like_any_other() -> None:
    driver = Steps()
    generation = driver.submit("r", max_tokens=99)
    for number in range(MAX_RESTARTS + 1):
        driver.arm(generation)
        driver.step(generation)
        driver.events()
        assert generation.setbacks.num_losses == number
        driver.fail(generation)
    (error,) = driver.events()
    assert error.reason == "ENGINE_FAILED"


def test_a_good_attempt_counts_also_if_it_did_not_end_by_a_loss() -> None:
    driver = Steps(num_blocks=1024)
    generation = driver.submit("r", max_tokens=999)
    for _ in range(MAX_RESTARTS):
        driver.arm(generation)
        driver.step(generation)
        driver.fail(generation)
    assert not generation.can_restart
    driver.arm(generation)
    for _ in range(NUM_GOOD_TOKENS - 1):
        driver.step(generation)
    driver.scheduler.report("d", Preempted(generation.sequence_id))
    driver.arm(generation)
    driver.step(generation)
    driver.fail(generation)
    assert generation.phase is not Phase.ENDED
    assert generation.can_restart


def test_steps_that_were_well_clear_it_also_if_their_attempt_did_not_end_by_a_failure() -> None:
    driver = Steps()
    generation = driver.submit("r", max_tokens=99)
    driver.arm(generation)
    driver.fail(generation)
    driver.arm(generation)
    driver.step(generation)
    driver.scheduler.report("d", Preempted(generation.sequence_id))
    driver.arm(generation)
    driver.fail(generation)
    assert (generation.phase, generation.setbacks.num_losses) == (Phase.QUEUED, 2)
    driver.arm(generation)
    driver.events()
    driver.fail(generation)
    (error,) = driver.events()
    assert error.reason == "ENGINE_FAILED"


def test_losses_that_are_far_apart_are_no_reason_to_give_up() -> None:
    """A long answer outlives any number of workers."""
    driver = Steps(num_blocks=1024)
    generation = driver.submit("r", max_tokens=999)
    for number in range(2 * MAX_RESTARTS):
        driver.arm(generation)
        for _ in range(NUM_GOOD_TOKENS - 1):
            driver.step(generation)
        driver.events()
        assert (generation.setbacks.num_losses, generation.can_restart) == (number, True)
        driver.fail(generation)
    for _ in range(MAX_RESTARTS):
        assert generation.phase is not Phase.ENDED
        driver.arm(generation)
        driver.step(generation)
        driver.events()
        driver.fail(generation)
    (error,) = driver.events()
    assert error.reason == "ENGINE_FAILED"


def test_what_goes_on_is_kept_away_from_the_engine_that_failed() -> None:
    driver = Steps()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.submit("r")
    driver.scheduler.heard("p", PoolUse(64), now=100.0)
    driver.arm(generation)
    driver.fail(generation)
    assert len(driver.commands(Reserve, "e")) == 1
    driver.scheduler.cancel(generation)
    driver.scheduler.heard("p", PoolUse(64), now=100.0 + FAILURE_PENALTY_S)
    driver.effects()
    driver.submit("later")
    assert len(driver.commands(Reserve, "d")) == 1


def test_a_failure_that_comes_twice_counts_once() -> None:
    driver = Steps()
    generation = driver.submit("r")
    driver.arm(generation)
    first = generation.sequence_id
    for _ in range(2):
        driver.scheduler.report("d", SequenceFailed(first, "ENGINE_FAILED", "oh"))
    assert (generation.attempts.num_past, generation.num_failed_steps) == (1, 1)


def test_what_the_engine_refuses_of_a_request_is_not_tried_again() -> None:
    driver = Steps()
    generation = driver.submit("r")
    driver.arm(generation)
    driver.events()
    driver.scheduler.report("d", SequenceFailed(generation.sequence_id, "INVALID_REQUEST", "no"))
    (error,) = driver.events()
    assert error.reason == "INVALID_REQUEST"


def test_who_has_the_first_token_from_the_prefill_worker_alone_has_come_through_no_step() -> None:
    driver = Steps()
    generation = driver.prefilling(max_tokens=9)
    driver.scheduler.report("p", FirstToken(generation.sequence_id, 4, 50, None))
    driver.fail(generation)
    assert generation.attempts.num_past == 1
    assert generation.fails_steps


def test_who_may_be_the_cause_is_computed_alone() -> None:
    driver = Steps(num_blocks=200, max_batch_tokens=200)
    both = [driver.submit(name) for name in ("one", "two")]
    driver.effects()
    for each in both:
        driver.grant(each)
    (batch,) = driver.commands(PrefillBatch)
    assert len(batch.chunks) == 2
    driver.scheduler.report("p", BatchDone(batch.batch_id, 1))
    driver.fail(*both, worker_id="p")
    driver.submit("new")
    batches = []
    for _ in range(3):
        driver.effects()
        for each in list(driver.scheduler.generations):
            if each.phase is Phase.RESERVING:
                driver.grant(each)
        for batch in driver.commands(PrefillBatch):
            batches.append([chunk.sequence_id for chunk in batch.chunks])
            driver.scheduler.report("p", BatchDone(batch.batch_id, 1))
    assert [len(each) for each in batches] == [1, 1, 1]


# Where prompts go after that


def test_prompts_are_kept_away_from_the_prefill_worker_that_failed() -> None:
    """Also while the other is busy: there they would fail again, and for the last time."""
    driver = Steps()
    driver.scheduler.heard("p", PoolUse(64), now=100.0)
    generation = driver.prefilling()
    driver.join("q", WorkerRole.PREFILL)
    busy = driver.prefill_batches("q")
    busy.update({1: 10, 2: 10})
    driver.fail(generation, worker_id="p")
    assert driver.commands(Reserve) == []
    busy.clear()
    assert len(driver.commands(Reserve)) == 1
    assert generation.prefill_worker == "q"
    driver.scheduler.cancel(generation)
    driver.scheduler.report("p", BatchDone(next(iter(driver.prefill_batches("p"))), 1))
    driver.scheduler.heard("p", PoolUse(64), now=100.0 + FAILURE_PENALTY_S)
    later = driver.submit("later")
    driver.effects()
    assert later.prefill_worker == "p"


def test_what_only_the_worker_that_failed_can_hold_waits_until_that_is_forgotten() -> None:
    """Nothing else happens then but that the worker is heard."""
    driver = Steps()
    driver.scheduler.heard("p", PoolUse(64), now=100.0)
    generation = driver.prefilling(length=40, max_tokens=2)
    driver.join("q", WorkerRole.PREFILL, num_blocks=5)
    driver.fail(generation, worker_id="p")
    assert driver.commands(Reserve) == []
    assert not driver.scheduler.heard("p", PoolUse(64), now=99.9 + FAILURE_PENALTY_S)
    assert driver.scheduler.heard("p", PoolUse(64), now=100.0 + FAILURE_PENALTY_S)
    assert len(driver.commands(Reserve)) == 1
    assert not driver.scheduler.heard("p", PoolUse(64), now=101.0 + FAILURE_PENALTY_S)


def test_where_all_have_failed_prompts_are_computed_all_the_same() -> None:
    driver = Steps()
    driver.scheduler.heard("p", PoolUse(64), now=100.0)
    generation = driver.prefilling()
    driver.fail(generation, worker_id="p")
    assert len(driver.commands(Reserve)) == 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_colocated_worker_that_failed_gets_no_prompts_if_there_is_another(
    num_workers: int,
) -> None:
    driver = Colocated("chunked", num_workers)
    driver.scheduler.heard("d0", PoolUse(64), now=100.0)
    generation = driver.submit("r")
    assert driver.admitted() == [("d0", generation.sequence_id)]
    driver.grant(generation)
    failed = SequenceFailed(generation.sequence_id, "ENGINE_FAILED", "oh")
    driver.scheduler.report("d0", failed)
    others = [driver.submit(str(number)) for number in range(3)]
    places = {name for name, _ in driver.admitted()}
    assert places == {f"d{num_workers - 1}"}
    driver.scheduler.heard("d0", PoolUse(64), now=100.0 + FAILURE_PENALTY_S)
    for each in (generation, *others):
        driver.scheduler.cancel(each)
    driver.submit("later")
    assert [name for name, _ in driver.admitted()] == ["d0"]


def test_a_decode_worker_that_failed_is_given_no_prompts_to_compute() -> None:
    driver = Local()
    driver.scheduler.heard("d", PoolUse(1000), 100.0)
    first = driver.computing()
    failed = SequenceFailed(first.sequence_id, "ENGINE_FAILED", "oh")
    driver.scheduler.report("d", failed)
    driver.submit("second")
    assert driver.local() == []
    driver.scheduler.heard("d", PoolUse(1000), 100.0 + FAILURE_PENALTY_S)
    assert driver.local() != []
