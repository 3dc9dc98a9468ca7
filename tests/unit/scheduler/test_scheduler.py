"""Decisions of the scheduler that random scenarios seldom meet, or cannot tell from others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduler_driver import SchedulerDriver
from sim_worker import BLOCK_SIZE, worker_info

from gateway.effects import Emit, Send
from gateway.generation import MAX_RESTARTS, NUM_GOOD_TOKENS, Generation, Phase
from gateway.liveness import RECONNECT_S
from gateway.output_lengths import MIN_OBSERVED
from gateway.policies import queue_policy
from gateway.prefill_view import PrefillView
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.suspects import PATIENCE_S
from gateway.tokens import Ended, Token
from gateway.worker_reports import FAILURE_PENALTY_S
from gateway.worker_view import PoolUse
from tandem.core.commands import Admit, PrefillBatch, Remove, Reserve
from tandem.core.errors import DataLoss, Mismatch, ResourceExhausted, Unavailable
from tandem.core.reports import (
    Armed,
    BatchDone,
    DecodeSnapshot,
    FirstToken,
    Preempted,
    PrefillSnapshot,
    Reserved,
    SequenceFailed,
    SequenceSnapshot,
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

LOST = Unavailable("it was lost")


class Driver(SchedulerDriver):
    """A scheduler with one prefill and one decode worker."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        max_batch_tokens: int = 64,
        max_queue: int = 100,
        recompute_bad_kv: bool = True,
        self_check_rate: float = 0.0,
    ) -> None:
        scheduler = Scheduler(
            queue_policy("fcfs"),
            Limits(max_batch_tokens, max_queue=max_queue),
            recompute_bad_kv=recompute_bad_kv,
            self_check_rate=self_check_rate,
        )
        super().__init__(scheduler, num_blocks=num_blocks)
        self.join("p", WorkerRole.PREFILL)
        self.join("d", WorkerRole.DECODE)

    def hear(self, worker_id: str, now: float) -> bool:
        """The worker says that it is there, and no more. Whether there is something to compose."""
        use = PoolUse(self.scheduler._fleet.of(worker_id).num_free_blocks)
        return self.scheduler.heard(worker_id, use, now)

    def prefilling(self, name: str = "r", **details: int) -> Generation:
        """A request whose batch has been sent."""
        generation = self.submit(name, **details)
        self.effects()
        self.grant(generation)
        assert len(self.commands(PrefillBatch)) == 1
        return generation


def test_a_batch_is_sent_once_all_its_reservations_are_answered() -> None:
    driver = Driver()
    one, two = driver.submit("one"), driver.submit("two")
    assert [each.key.request_id for each in driver.commands(Reserve, "d")] == ["one", "two"]
    driver.grant(one)
    assert driver.effects() == []
    driver.grant(two)
    batch, *admits = (each.command for each in driver.effects() if isinstance(each, Send))
    assert isinstance(batch, PrefillBatch)
    assert [chunk.sequence_id for chunk in batch.chunks] == [one.sequence_id, two.sequence_id]
    assert admits == [Admit(one.sequence_id), Admit(two.sequence_id)]


def test_a_request_of_one_token_reserves_nothing() -> None:
    driver = Driver()
    driver.submit("r", max_tokens=1)
    (effect,) = driver.effects()
    assert isinstance(effect, Send)
    assert effect.command.chunks[0].sequence.destination is None


def test_one_batch_waits_behind_the_running_one_and_no_more() -> None:
    driver = Driver(max_batch_tokens=4)
    generations = [driver.submit(str(n), max_tokens=1) for n in range(4)]
    batches = driver.commands(PrefillBatch)
    assert [each.chunks[0].sequence_id for each in batches] == [
        each.sequence_id for each in generations[:2]
    ]
    driver.scheduler.report("p", BatchDone(batches[0].batch_id, 1))
    driver.scheduler.report("p", BatchDone(batches[0].batch_id, 1))
    (third,) = driver.commands(PrefillBatch)
    assert third.chunks[0].sequence_id == generations[2].sequence_id


def test_long_prompts_go_in_chunks_that_end_on_blocks() -> None:
    driver = Driver(max_batch_tokens=10)
    driver.submit("r", length=21, max_tokens=1)
    first, second = driver.commands(PrefillBatch)
    driver.scheduler.report("p", BatchDone(first.batch_id, 1))
    (third,) = driver.commands(PrefillBatch)
    spans = [(c.start, len(c.token_ids), c.last) for b in (first, second, third) for c in b.chunks]
    assert spans == [(0, 8, False), (8, 8, False), (16, 5, True)]


def test_a_prompt_that_just_fits_a_batch_is_not_cut() -> None:
    driver = Driver(max_batch_tokens=10)
    driver.submit("r", length=10, max_tokens=1)
    (batch,) = driver.commands(PrefillBatch)
    assert [(len(each.token_ids), each.last) for each in batch.chunks] == [(10, True)]


@pytest.mark.parametrize("lost", ["p", "d"])
def test_what_is_queued_again_keeps_its_order(lost: str) -> None:
    driver = Driver()
    for name in ("one", "two", "three"):
        driver.submit(name)
    assert len(driver.commands(Reserve)) == 3
    driver.submit("four")
    driver.scheduler.worker_lost(lost, LOST)
    assert driver.events() == []
    driver.join(lost, WorkerRole.PREFILL if lost == "p" else WorkerRole.DECODE)
    again = driver.commands(Reserve)
    assert [each.key.request_id for each in again] == ["one", "two", "three", "four"]
    assert [each.key.attempt for each in again] == [1, 1, 1, 0]


def test_a_loss_does_not_send_what_it_takes_the_destination_of() -> None:
    """One is granted, the other is not: both are of the lost worker, and neither has started."""
    driver = Driver()
    one, two = driver.submit("one"), driver.submit("two")
    driver.effects()
    driver.grant(two)
    driver.scheduler.worker_lost("d", LOST)
    effects = driver.effects()
    assert not [each for each in effects if isinstance(each, Emit)]
    assert {type(each.command) for each in effects if isinstance(each, Send)} == {Remove}
    assert (one.attempts.num_past, two.attempts.num_past) == (1, 1)


def test_a_token_that_comes_twice_or_after_the_end_changes_nothing() -> None:
    driver = Driver()
    generation = driver.prefilling(max_tokens=2)
    sequence_id = generation.sequence_id
    driver.scheduler.report("d", Armed(sequence_id, 4, 50, 0))
    step = StepDone(1, 0, 0, (sequence_id,), (5,), (60,), (FinishReason.LENGTH,))
    driver.scheduler.report("d", step)
    *tokens, ended = driver.events()
    assert tokens == [Token(4, 50), Token(5, 60)]
    assert isinstance(ended, Ended)
    driver.scheduler.report("d", step)
    driver.scheduler.report("p", FirstToken(sequence_id, 4, 50, None))
    driver.scheduler.cancel(generation)
    assert driver.effects() == []
    driver.scheduler.report("p", TransferDone(sequence_id, 9))
    assert driver.commands(Remove, "p") == [Remove(sequence_id)]


def test_tokens_are_told_in_order_whoever_comes_first() -> None:
    driver = Driver()
    generation = driver.prefilling()
    step = StepDone(1, 0, 0, (generation.sequence_id,), (5,), (60,), (FinishReason.STOP,))
    driver.scheduler.report("d", step)
    assert driver.events() == []
    driver.scheduler.report("p", FirstToken(generation.sequence_id, 4, 50, None))
    *tokens, ended = driver.events()
    assert tokens == [Token(4, 50), Token(5, 60)]
    assert ended.finish_reason is FinishReason.STOP


def test_two_tokens_for_one_place_end_the_request() -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 50, 0))
    driver.scheduler.report("p", FirstToken(generation.sequence_id, 4, 51, None))
    token, error = driver.events()
    assert token == Token(4, 50)
    assert isinstance(error, DataLoss)
    assert generation.phase is Phase.ENDED


def test_who_ends_with_the_first_token_was_not_served_by_a_decode_worker() -> None:
    driver = Driver()
    generation = driver.prefilling()
    first = FirstToken(generation.sequence_id, 4, 50, FinishReason.STOP)
    driver.scheduler.report("p", first)
    _, ended = driver.events()
    served_by = ended.served_by
    assert (served_by.prefill_worker, served_by.decode_worker, served_by.kv_bytes) == ("p", "", 0)


def test_a_refused_reservation_is_asked_for_again_when_the_worker_is_heard_of() -> None:
    driver = Driver()
    generation = driver.submit("r")
    driver.effects()
    refusal = SequenceFailed(generation.sequence_id, "RESOURCE_EXHAUSTED", "full")
    driver.scheduler.report("d", refusal)
    # It needs two blocks: its prompt's, and one more.
    for num_free_blocks, num_asked in ((1, 0), (2, 1)):
        assert driver.commands(Reserve) == []
        driver.scheduler.heard("d", PoolUse(num_free_blocks), now=1.0)
        assert len(driver.commands(Reserve)) == num_asked


def test_what_was_asked_for_is_not_there_for_others() -> None:
    driver = Driver()
    driver.scheduler.heard("d", PoolUse(3), now=1.0)
    one, _ = driver.submit("one"), driver.submit("two")
    assert len(driver.commands(Reserve)) == 1
    driver.grant(one)
    for num_free_blocks, num_asked in ((1, 0), (2, 1)):
        driver.scheduler.heard("d", PoolUse(num_free_blocks), now=2.0)
        assert len(driver.commands(Reserve)) == num_asked


def test_a_reservation_that_fails_for_another_reason_is_not_asked_for_again() -> None:
    driver = Driver()
    generation = driver.submit("r")
    driver.effects()
    failed = SequenceFailed(generation.sequence_id, "INVALID_REQUEST", "no such grammar")
    driver.scheduler.report("d", failed)
    (error,) = driver.events()
    assert error.reason == "INVALID_REQUEST"


def test_how_long_answers_get_is_learned_from_those_that_end_by_themselves() -> None:
    driver = Driver()
    lengths = driver.scheduler._lifecycle.lengths
    for number in range(MIN_OBSERVED):
        assert lengths.expect(0, 100) == 100
        scored, cancelled, ended = (
            driver.submit(f"{name} {number}", max_tokens=max_tokens)
            for name, max_tokens in (("scored", 0), ("cancelled", 100), ("ended", 100))
        )
        driver.effects()
        for each in (cancelled, ended):
            driver.grant(each)
        (batch,) = driver.commands(PrefillBatch)
        driver.scheduler.report("p", BatchDone(batch.batch_id, 1))
        for each, reason in ((scored, None), (cancelled, None), (ended, FinishReason.STOP)):
            driver.scheduler.report("p", FirstToken(each.sequence_id, 4, 50, reason))
        driver.scheduler.cancel(cancelled)
    assert lengths.expect(0, 100) == 1


def test_before_any_has_ended_answers_without_a_bound_go_side_by_side() -> None:
    """Each may become what fills the pool, as where nobody says `max_tokens`."""
    driver = Driver(num_blocks=5000)
    for number in range(4):
        driver.submit(str(number), max_tokens=5000 * BLOCK_SIZE - 4)
    assert len(driver.commands(Reserve)) == 4


# Streams that come back


def test_a_prefill_stream_that_comes_back_keeps_what_was_never_sent_to_it() -> None:
    """A batch that is being formed: the worker knows nothing of it, and need not."""
    driver = Driver()
    one, two = driver.submit("one"), driver.submit("two")
    driver.effects()
    driver.grant(one)
    driver.scheduler.resumed("p", PrefillSnapshot((), (), ()), [])
    assert driver.effects() == []
    driver.grant(two)
    assert len(driver.commands(PrefillBatch)) == 1


def test_a_batch_on_its_way_still_takes_its_place() -> None:
    driver = Driver(max_batch_tokens=4)
    for number in range(3):
        driver.submit(str(number), max_tokens=1)
    batches = driver.commands(PrefillBatch)
    assert len(batches) == 2
    driver.scheduler.resumed("p", PrefillSnapshot((), (), ()), batches)
    assert driver.effects() == []


def test_an_unapplied_admit_does_not_hide_a_failure_whose_report_was_lost() -> None:
    driver = Driver()
    generation = driver.prefilling()
    admit = Admit(generation.sequence_id)
    driver.scheduler.resumed("d", DecodeSnapshot(()), [admit])
    (again,) = driver.commands(Reserve)
    assert (again.sequence_id, again.key.attempt) == (generation.sequence_id, 1)


def test_an_unapplied_reservation_is_not_missed() -> None:
    driver = Driver()
    driver.submit("r")
    (reserve,) = driver.commands(Reserve)
    driver.scheduler.resumed("d", DecodeSnapshot(()), [reserve])
    assert driver.effects() == []


def snapshot_of(generation: Generation, *token_ids: int) -> SequenceSnapshot:
    """Its decode worker holds it, and may have told none of these of its tokens."""
    reserved = Reserved(generation.sequence_id, b"x", 1, 0)
    return SequenceSnapshot(generation.sequence_id, reserved, 4, token_ids, None)


def test_what_was_not_heard_comes_with_the_snapshot() -> None:
    driver = Driver()
    generation = driver.submit("r")
    driver.effects()
    driver.scheduler.resumed("d", DecodeSnapshot((snapshot_of(generation),)), [])
    assert len(driver.commands(PrefillBatch)) == 1
    for _ in range(2):
        driver.scheduler.resumed("d", DecodeSnapshot((snapshot_of(generation, 50, 60),)), [])
    assert driver.events() == [Token(4, 50), Token(5, 60)]
    assert generation.phase is Phase.DECODING
    # Its KV has left the prefill worker.
    driver.scheduler.worker_lost("p", LOST)
    assert generation.phase is Phase.DECODING


def test_a_grant_that_comes_again_changes_nothing() -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 50, 0))
    driver.scheduler.report("p", TransferDone(generation.sequence_id, 9))
    driver.effects()
    driver.scheduler.resumed("d", DecodeSnapshot((snapshot_of(generation, 50),)), [])
    assert driver.effects() == []
    assert generation.phase is Phase.DECODING


def test_a_reservation_that_a_snapshot_lacks_is_asked_for_again() -> None:
    """And its batch does not wait for it."""
    driver = Driver()
    one, two = driver.submit("one"), driver.submit("two")
    driver.effects()
    driver.scheduler.resumed("d", DecodeSnapshot((snapshot_of(one),)), [])
    sent = [each.command for each in driver.effects() if isinstance(each, Send)]
    (batch,) = (each for each in sent if isinstance(each, PrefillBatch))
    assert [chunk.sequence_id for chunk in batch.chunks] == [one.sequence_id]
    (reserve,) = (each for each in sent if isinstance(each, Reserve))
    assert (reserve.sequence_id, reserve.key.attempt) == (two.sequence_id, 1)
    assert two.setbacks.num_losses == 0


# Who is not taken


def test_without_workers_or_places_nothing_is_taken() -> None:
    driver = Driver(max_queue=1, num_blocks=1)
    driver.submit("r", length=8)
    with pytest.raises(ResourceExhausted) as full:
        driver.submit("s")
    assert full.value.retry_after_s
    for lost, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
        driver.scheduler.worker_lost(lost, LOST)
        with pytest.raises(Unavailable, match=role.name.lower()):
            driver.submit("s")
        driver.join(lost, role)


# Workers out of reach, requests that cannot be served, workers that are refused


def test_an_edge_that_failed_is_avoided_and_then_forgiven() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.prefilling()
    unreachable = SequenceFailed(generation.sequence_id, "UNAVAILABLE", "no connection")
    driver.scheduler.heard("p", PoolUse(64), now=100.0)
    driver.scheduler.report("p", unreachable)
    # Its client has seen nothing yet.
    assert [each.key.attempt for each in driver.commands(Reserve, "e")] == [1]
    driver.scheduler.cancel(generation)
    driver.effects()

    def next_reservation() -> str:
        """Where a request goes that the workers are otherwise equal for: then it is to "d"."""
        generation = driver.submit("next")
        (worker_id,) = {each.worker_id for each in driver.effects() if isinstance(each, Send)}
        driver.scheduler.cancel(generation)
        driver.effects()
        return worker_id

    assert next_reservation() == "e"
    driver.scheduler.heard("p", PoolUse(64), now=100.0 + FAILURE_PENALTY_S / 2)
    assert next_reservation() == "e"
    driver.scheduler.heard("p", PoolUse(64), now=100.0 + FAILURE_PENALTY_S)
    assert next_reservation() == "d"


def test_an_edge_that_failed_is_used_if_there_is_no_other() -> None:
    driver = Driver()
    generation = driver.prefilling()
    unreachable = SequenceFailed(generation.sequence_id, "UNAVAILABLE", "no connection")
    driver.scheduler.report("p", unreachable)
    assert [each.key.attempt for each in driver.commands(Reserve, "d")] == [1]


@pytest.mark.parametrize("reason", ["UNAVAILABLE", "FENCED"])
def test_a_transfer_that_fails_after_the_first_token_was_shown_begins_behind_it(
    reason: str,
) -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.scheduler.report("p", FirstToken(generation.sequence_id, 4, 7, None))
    driver.scheduler.report("p", SequenceFailed(generation.sequence_id, reason, "gone"))
    effects = driver.effects()
    (token,) = (each.event for each in effects if isinstance(each, Emit))
    assert token.token_id == 7
    sent = (each.command for each in effects if isinstance(each, Send))
    (reserve,) = (command for command in sent if isinstance(command, Reserve))
    assert reserve.generated_token_ids == (7,)


@pytest.mark.parametrize("lost", ["p", "d"])
def test_a_request_is_not_tried_for_ever(lost: str) -> None:
    driver = Driver()
    generation = driver.submit("r")
    for _ in range(MAX_RESTARTS + 1):
        driver.effects()
        driver.grant(generation)
        (batch,) = driver.commands(PrefillBatch)
        driver.scheduler.report("p", BatchDone(batch.batch_id, 1))
        driver.scheduler.worker_lost(lost, LOST)
        driver.join(lost, WorkerRole.PREFILL if lost == "p" else WorkerRole.DECODE)
    assert driver.events() == [LOST]
    assert generation.phase is Phase.ENDED


def test_losses_before_an_attempt_that_went_well_are_forgiven() -> None:
    driver = Driver()
    generation = driver.prefilling(max_tokens=100)
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    generation.setbacks.num_losses = MAX_RESTARTS
    for _ in range(NUM_GOOD_TOKENS - 1):
        assert not generation.can_restart
        driver.step(generation)
    driver.scheduler.worker_lost("d", LOST)
    assert generation.phase is Phase.QUEUED
    assert generation.can_restart


def test_a_transfer_that_fails_each_time_is_not_tried_for_ever() -> None:
    driver = Driver()
    generation = driver.submit("r")
    for attempt in range(MAX_RESTARTS + 1):
        assert generation.attempts.num_past == attempt
        driver.effects()
        driver.grant(generation)
        (batch,) = driver.commands(PrefillBatch)
        driver.scheduler.report("p", BatchDone(batch.batch_id, 1))
        failed = SequenceFailed(generation.sequence_id, "UNAVAILABLE", "the models differ")
        driver.scheduler.report("p", failed)
    (error,) = driver.events()
    assert (error.reason, error.message) == ("UNAVAILABLE", "the models differ")


def test_a_prompt_that_cannot_be_computed_is_not_tried_again() -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.scheduler.report("p", SequenceFailed(generation.sequence_id, "INTERNAL", "oh"))
    (error,) = driver.events()
    assert error.reason == "INTERNAL"


# Workers that may be lost


@pytest.mark.parametrize("suspect", ["p", "d"])
def test_a_suspected_worker_gets_nothing_new(suspect: str) -> None:
    driver = Driver()
    driver.scheduler.worker_suspected(suspect)
    driver.submit("r")
    assert driver.effects() == []
    driver.scheduler.worker_trusted(suspect)
    assert len(driver.commands(Reserve, "d")) == 1


def test_what_nobody_has_seen_leaves_a_suspected_worker_for_another() -> None:
    """The other requests of its batch do not wait for it."""
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    one, two = driver.submit("one"), driver.submit("two")
    first, second = driver.commands(Reserve)
    assert (first.sequence_id, second.sequence_id) == (one.sequence_id, two.sequence_id)
    driver.grant(two)
    driver.scheduler.worker_suspected("d")
    effects = [each for each in driver.effects() if isinstance(each, Send)]
    removed = [each for each in effects if isinstance(each.command, Remove)]
    assert {each.worker_id for each in removed} == {"d", "p"}
    (batch,) = (each.command for each in effects if isinstance(each.command, PrefillBatch))
    assert [chunk.sequence_id for chunk in batch.chunks] == [two.sequence_id]
    assert [each.key.attempt for each in driver.commands(Reserve, "e")] or [
        each.command.key.attempt for each in effects if isinstance(each.command, Reserve)
    ] == [1]


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_asked_of_no_other_worker_waits_for_a_suspected_one_alone(is_lost: bool) -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    one, two = driver.submit("one"), driver.submit("two")
    driver.effects()
    assert (one.decode_worker, two.decode_worker) == ("d", "e")
    driver.grant(two)
    one.setbacks.num_losses = MAX_RESTARTS
    driver.scheduler.worker_suspected("d")
    (batch,) = driver.commands(PrefillBatch)
    assert [chunk.sequence_id for chunk in batch.chunks] == [two.sequence_id]
    if is_lost:
        driver.scheduler.worker_lost("d", LOST)
        assert driver.events() == [LOST]
        return
    driver.scheduler.worker_trusted("d")
    driver.grant(one)
    driver.effects()
    driver.grant(one)
    (batch,) = driver.commands(PrefillBatch)
    assert [chunk.sequence_id for chunk in batch.chunks] == [one.sequence_id]
    assert one.setbacks.num_losses == MAX_RESTARTS


def test_what_was_granted_keeps_its_place_in_a_batch_if_it_is_asked_of_no_other_worker() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    one, two = driver.submit("one"), driver.submit("two")
    driver.effects()
    driver.grant(one)
    one.setbacks.num_losses = MAX_RESTARTS
    driver.scheduler.worker_suspected("d")
    driver.grant(two)
    (batch,) = driver.commands(PrefillBatch)
    assert len(batch.chunks) == 2


BAD_KV = SequenceFailed(0, "DATA_LOSS", "the checksum of frame 0 is wrong")


def test_kv_that_came_damaged_is_computed_again_and_sent_another_way() -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.join("e", WorkerRole.DECODE)
    driver.scheduler.report("p", replace(BAD_KV, sequence_id=generation.sequence_id))
    (reserve,) = driver.commands(Reserve, "e")
    assert reserve.key.attempt == 1
    driver.grant(generation)
    driver.scheduler.report("e", Armed(generation.sequence_id, 4, 7, 0))
    served_by = generation.served_by()
    assert (served_by.num_bad_transfers, served_by.num_losses) == (1, 0)


def test_kv_that_comes_damaged_each_time_is_not_computed_for_ever() -> None:
    driver = Driver()
    generation = driver.submit("r")
    for attempt in range(MAX_RESTARTS + 1):
        driver.effects()
        assert generation.attempts.num_past == attempt
        driver.grant(generation)
        (batch,) = driver.commands(PrefillBatch)
        driver.scheduler.report("p", BatchDone(batch.batch_id, 1))
        bad = replace(BAD_KV, sequence_id=generation.sequence_id)
        driver.scheduler.report("p", bad)
    (event,) = driver.events()
    assert isinstance(event, DataLoss)


def test_kv_that_came_damaged_fails_its_request_if_that_is_wished() -> None:
    driver = Driver(recompute_bad_kv=False)
    generation = driver.prefilling()
    driver.scheduler.report("p", replace(BAD_KV, sequence_id=generation.sequence_id))
    effects = driver.effects()
    (event,) = (each.event for each in effects if isinstance(each, Emit))
    assert isinstance(event, DataLoss)
    assert {each.worker_id for each in effects if isinstance(each, Send)} == {"p", "d"}


def test_what_a_suspected_worker_generates_goes_on_with_another() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    driver.effects()
    driver.scheduler.worker_suspected("d")
    assert not driver.hear("e", now=PATIENCE_S / 2)
    assert driver.hear("e", now=PATIENCE_S)
    (reserve,) = driver.commands(Reserve, "e")
    assert reserve.generated_token_ids == (7,)
    assert generation.setbacks.num_losses == 1


@pytest.mark.parametrize("drains", [False, True])
def test_it_stays_if_it_has_lost_too_many_or_the_other_drains(drains: bool) -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    if drains:
        driver.scheduler.draining.cordon("e", 10.0, now=0.0)
    else:
        generation.setbacks.num_losses = MAX_RESTARTS
    driver.scheduler.worker_suspected("d")
    driver.hear("e", now=PATIENCE_S)
    assert generation.phase is Phase.DECODING


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_was_only_asked_for_loses_nothing_when_it_moves_later(is_lost: bool) -> None:
    """Unless its worker is lost indeed."""
    driver = Driver()
    generation = driver.submit("r")
    assert driver.commands(Reserve, "d")
    driver.scheduler.worker_suspected("d")
    driver.join("e", WorkerRole.DECODE)
    driver.hear("e", now=PATIENCE_S)
    assert driver.commands(Reserve, "e")
    if is_lost:
        driver.scheduler.worker_lost("d", LOST)
    else:
        driver.scheduler.worker_trusted("d")
    assert generation.setbacks.num_losses == is_lost


@pytest.mark.parametrize("comes_back", [False, True])
def test_as_long_as_nobody_is_heard_a_suspected_worker_keeps_what_it_has(comes_back: bool) -> None:
    """All streams broke, or all are silent: it is the gateway's own network that is at fault."""
    driver = Driver()
    for name in ("e", "f"):
        driver.join(name, WorkerRole.DECODE)
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    driver.effects()
    for name in "def":
        driver.scheduler.worker_suspected(name)
        # What was on its way when its stream broke.
        driver.hear("f", now=PATIENCE_S / 2)
    driver.hear("p", now=1.0)
    # The first that comes back is not alone, it may be.
    driver.scheduler.worker_trusted("e")
    driver.hear("e", now=1.0 + RECONNECT_S / 2)
    if comes_back:
        driver.scheduler.worker_trusted("d")
    assert driver.effects() == []
    driver.hear("e", now=1.0 + RECONNECT_S)
    assert bool(driver.commands(Reserve, "e")) is not comes_back
    assert generation.setbacks.num_losses == (not comes_back)


def test_who_was_back_before_another_is_suspected_is_believed_as_any() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    driver.scheduler.worker_suspected("e")
    driver.hear("p", now=1.0)
    driver.scheduler.worker_trusted("e")
    driver.hear("p", now=1.1)
    driver.scheduler.worker_suspected("d")
    driver.effects()
    driver.hear("e", now=1.1 + PATIENCE_S)
    assert driver.commands(Reserve, "e")


def test_a_worker_that_joins_takes_what_a_suspected_one_has() -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    driver.effects()
    driver.scheduler.worker_suspected("d")
    driver.join("e", WorkerRole.DECODE)
    assert driver.effects() == []
    driver.hear("e", now=1.0)
    assert driver.commands(Reserve, "e")


def test_a_suspected_prefill_worker_keeps_what_has_left_it() -> None:
    driver = Driver()
    driver.join("q", WorkerRole.PREFILL)
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    driver.effects()
    driver.scheduler.worker_suspected("p")
    assert driver.effects() == []


def test_the_preempted_go_first() -> None:
    driver = Driver()
    generation = driver.prefilling()
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 7, 0))
    driver.scheduler.report("d", Preempted(generation.sequence_id))
    others = [driver.submit(f"other {number}") for number in range(3)]
    first = driver.commands(Reserve, "d")[0]
    assert first.sequence_id == generation.sequence_id not in {each.sequence_id for each in others}
    assert first.generated_token_ids == (7,)
    assert generation.setbacks.num_losses == 0


def test_without_another_worker_everything_waits_for_a_suspected_one() -> None:
    driver = Driver()
    driver.prefilling()
    driver.scheduler.worker_suspected("d")
    assert driver.effects() == []


def test_a_refusal_is_no_loss() -> None:
    driver = Driver()
    generation = driver.submit("r")
    for _ in range(MAX_RESTARTS + 1):
        driver.effects()
        refusal = SequenceFailed(generation.sequence_id, "RESOURCE_EXHAUSTED", "full")
        driver.scheduler.report("d", refusal)
        driver.scheduler.heard("d", PoolUse(10**6), now=1.0)
    assert generation.can_restart


@pytest.mark.parametrize(("length", "max_tokens"), [(17, 1), (17, 5), (4, 13)])
def test_what_no_worker_can_ever_hold_is_ended_and_blocks_nobody(
    length: int, max_tokens: int
) -> None:
    """The workers that it was accepted for are gone; those that are left have 16 tokens."""
    driver = Driver(num_blocks=4)
    large = driver.submit("large", length=length, max_tokens=max_tokens)
    small = driver.submit("small")
    effects = driver.effects()
    (emitted,) = (each for each in effects if isinstance(each, Emit))
    assert emitted.generation is large
    assert isinstance(emitted.event, ResourceExhausted)
    (sent,) = (each for each in effects if isinstance(each, Send))
    assert isinstance(sent.command, Reserve)
    assert sent.command.sequence_id == small.sequence_id


def test_one_decode_worker_does_not_take_all_of_a_prefill_workers_blocks() -> None:
    driver = Driver(num_blocks=16, max_batch_tokens=16)
    driver.prefilling("on its way to d", length=16)
    driver.join("e", WorkerRole.DECODE)
    for name in ("second", "third"):
        driver.submit(name, length=16, max_tokens=2)
    # A block has 4 tokens: "on its way" and "second" take half of the pool, and more goes to e.
    reserved = [
        (each.worker_id, each.command.key.request_id)
        for each in driver.effects()
        if isinstance(each, Send) and isinstance(each.command, Reserve)
    ]
    assert reserved == [("e", "second")]
    view = driver.scheduler.workers[0]
    assert isinstance(view, PrefillView)
    assert view.may_send_to("d", num_tokens=16)
    assert not view.may_send_to("d", num_tokens=17)
    assert view.may_send_to("nobody yet", num_tokens=64)
    # Where there is no other nothing is kept for any.
    assert view.may_send_to("d", num_tokens=17, has_others=False)


def test_what_is_over_one_decode_workers_share_is_for_others_however_full_these_are() -> None:
    driver = Driver(num_blocks=16)
    driver.prefilling("on its way to d", length=36)
    driver.join("e", WorkerRole.DECODE)
    other = driver.scheduler._fleet.decode["e"]
    other.num_refused_blocks = 1
    driver.submit("second", length=8)
    assert not driver.commands(Reserve)
    other.num_refused_blocks = 0
    other.num_used_blocks = 12
    assert [each.key.request_id for each in driver.commands(Reserve, "e")] == ["second"]


def test_the_only_decode_worker_may_take_all_of_them() -> None:
    driver = Driver(num_blocks=16)
    driver.prefilling("on its way to d", length=36)
    driver.submit("second", length=8)
    assert [each.key.request_id for each in driver.commands(Reserve, "d")] == ["second"]


def test_a_request_that_takes_its_worker_down_each_time_is_not_tried_for_ever() -> None:
    driver = Driver()
    generation = driver.submit("r")
    for attempt in range(MAX_RESTARTS + 1):
        assert [each.key.attempt for each in driver.commands(Reserve)] == [attempt]
        driver.scheduler.worker_lost("d", LOST)
        driver.join("d", WorkerRole.DECODE)
    (emitted,) = (each for each in driver.effects() if isinstance(each, Emit))
    assert (emitted.generation, emitted.event) == (generation, LOST)


def test_nor_if_there_are_others_that_it_can_move_to_at_once() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.submit("r")
    for num_lost in range(MAX_RESTARTS + 1):
        assert generation.setbacks.num_losses == num_lost
        driver.effects()
        worker_id = generation.decode_worker
        driver.scheduler.worker_suspected(worker_id)
        driver.scheduler.worker_lost(worker_id, LOST)
        driver.join(worker_id, WorkerRole.DECODE)
    (emitted,) = (each for each in driver.effects() if isinstance(each, Emit))
    assert (emitted.generation, emitted.event) == (generation, LOST)


def test_what_an_unheard_worker_had_not_answered_for_loses_nothing_if_that_comes_back() -> None:
    driver = Driver()
    driver.join("e", WorkerRole.DECODE)
    generation = driver.submit("r")
    for _ in range(2 * MAX_RESTARTS):
        driver.effects()
        worker_id = generation.decode_worker
        driver.scheduler.worker_suspected(worker_id)
        driver.scheduler.worker_trusted(worker_id)
        driver.scheduler.worker_lost(worker_id, LOST)
        driver.join(worker_id, WorkerRole.DECODE)
    assert (generation.setbacks.num_losses, generation.can_restart) == (0, True)


def test_what_is_queued_can_be_ended_and_what_runs_goes_on() -> None:
    driver = Driver(num_blocks=4)
    running = driver.prefilling()
    queued = [driver.submit(name, length=8) for name in ("one", "two")]
    assert driver.effects() == []
    driver.scheduler.fail_queued(LOST)
    assert driver.effects() == [Emit(each, LOST) for each in queued]
    driver.scheduler.fail_all(LOST)
    assert Emit(running, LOST) in driver.effects()


def test_a_worker_whose_block_is_larger_than_a_batch_is_refused() -> None:
    """No chunk of a longer prompt could ever be sent to it."""
    info = worker_info("d2", WorkerRole.DECODE, 1, 64, 16)
    Driver(max_batch_tokens=4).scheduler.check(info)
    with pytest.raises(Mismatch, match="4 tokens"):
        Driver(max_batch_tokens=3).scheduler.check(info)


def test_a_second_worker_of_a_name_is_refused() -> None:
    driver = Driver()
    with pytest.raises(Mismatch, match="named d already"):
        driver.scheduler.check(worker_info("d", WorkerRole.DECODE, 2, 64, 16))
    driver.scheduler.worker_lost("d", LOST)
    driver.scheduler.check(worker_info("d", WorkerRole.DECODE, 2, 64, 16))


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_prefill_worker_that_has_forgotten_what_has_left_it_costs_nothing(
    has_ended: bool,
) -> None:
    """It waited for the word that the transfer is done: its record is gone, and so is that."""
    driver = Driver()
    generation = driver.prefilling(max_tokens=2)
    sequence_id = generation.sequence_id
    driver.scheduler.report("d", Armed(sequence_id, 4, 50, 0))
    if has_ended:
        step = StepDone(1, 0, 0, (sequence_id,), (5,), (60,), (FinishReason.LENGTH,))
        driver.scheduler.report("d", step)
    driver.effects()
    driver.scheduler.resumed("p", PrefillSnapshot((), (), ()), [])
    assert driver.commands(Reserve) == []
    assert (generation.attempts.num_past, generation.setbacks.num_losses) == (0, 0)
    assert generation.phase is (Phase.ENDED if has_ended else Phase.DECODING)
    assert driver.scheduler._fleet.prefill["p"].generations == {}
