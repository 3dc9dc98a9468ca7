"""The scheduler tells each attempt when it came to which stage, on the gateway's clock."""

from __future__ import annotations

from pytest import approx
from test_scheduler import LOST, Driver

from gateway.generation import Generation
from gateway.stages import AttemptEnd, Stage
from gateway.worker_view import PoolUse
from tandem.core.errors import ResourceExhausted, Unavailable
from tandem.core.reports import (
    Armed,
    FirstToken,
    Preempted,
    PromptTimes,
    SequenceFailed,
    Span,
    SpanKind,
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

# The prefill worker's clock is so much behind the gateway's.
OFFSET_NS = 1_000_000_000


def ns(seconds: float) -> int:
    return int(seconds * 1e9)


class Timed(Driver):
    """A driver whose clock is set by each call."""

    def at(self, now: float) -> Timed:
        """All workers are heard of."""
        for worker_id in ("p", "d"):
            offset_ns = OFFSET_NS if worker_id == "p" else 0
            self.scheduler.heard(worker_id, PoolUse(64), now, clock_offset_ns=offset_ns)
        return self

    def prefilled(self, now: float = 5.0) -> Generation:
        """Came at 1, was placed at 2, sent at 2.5, and computed from 3 to 4."""
        self.at(1.0)
        generation = self.submit("r")
        self.at(2.0).effects()
        self.at(2.5).grant(generation)
        self.effects()
        self.at(now)
        times = PromptTimes(ns(3.0) - OFFSET_NS, ns(4.0) - OFFSET_NS, 2)
        report = FirstToken(generation.sequence_id, 4, 50, None, None, 0, times)
        self.scheduler.report("p", report)
        return generation

    def armed(self, at_s: float = 4.5) -> Generation:
        generation = self.prefilled()
        armed = Armed(generation.sequence_id, 4, 50, ns(at_s))
        self.scheduler.report("d", armed)
        return generation

    def step_at(
        self, generation: Generation, position: int, start_s: float, reason: FinishReason | None
    ) -> None:
        row = ((generation.sequence_id,), (position,), (51,), (reason,))
        self.scheduler.report("d", StepDone(1, ns(start_s), ns(start_s) + 1, *row))


def seconds(generation: Generation) -> dict[Stage, float]:
    return {stage: s for stage, s in generation.attempts.seconds().items() if s}


def test_a_request_that_is_split_goes_through_all_stages() -> None:
    driver = Timed()
    generation = driver.armed()
    driver.at(6.0).step_at(generation, 5, 5.0, None)
    driver.at(6.5).step_at(generation, 6, 6.0, FinishReason.LENGTH)
    assert seconds(generation) == approx(
        {
            Stage.QUEUE: 1.0,
            Stage.RESERVE: 0.5,
            Stage.PREFILL_WAIT: 0.5,
            Stage.PREFILL: 1.0,
            Stage.TRANSFER: 0.5,
            Stage.ARMED_WAIT: 0.5,
            Stage.DECODE: 1.5,
        }
    )
    attempt = generation.attempts.current
    assert (attempt.num_steps, attempt.num_batches, attempt.num_batch_seqs) == (2, 1, 1)
    assert (attempt.prefill_worker, attempt.decode_worker, attempt.num_tokens) == ("p", "d", 3)


def test_what_a_worker_tells_has_happened_whatever_its_clock_says() -> None:
    driver = Timed()
    generation = driver.armed(at_s=1000.0)
    driver.at(6.0).step_at(generation, 5, 1000.0, FinishReason.LENGTH)
    found = seconds(generation)
    assert (found[Stage.TRANSFER], found[Stage.ARMED_WAIT]) == approx((1.0, 1.0))


def test_a_transfer_is_known_by_its_span() -> None:
    driver = Timed()
    generation = driver.armed()
    span = Span(
        SpanKind.TRANSFER,
        ns(3.5) - OFFSET_NS,
        ns(4.5) - OFFSET_NS,
        number=2,
        sequence_id=generation.sequence_id,
        num_bytes=99,
        compute_end_ns=ns(4.0) - OFFSET_NS,
    )
    driver.scheduler.heard("p", PoolUse(64), 5.5, [span], clock_offset_ns=OFFSET_NS)
    driver.scheduler.report("p", TransferDone(generation.sequence_id, 99))
    assert generation.attempts.current.transfer == approx((3.5, 4.5, 99, 2, 0.5))


def test_what_ends_with_its_first_token_has_no_transfer() -> None:
    driver = Timed()
    driver.at(1.0)
    generation = driver.submit("r", max_tokens=1)
    driver.effects()
    driver.at(5.0)
    times = PromptTimes(ns(3.0) - OFFSET_NS, ns(4.0) - OFFSET_NS, 1)
    end = FirstToken(generation.sequence_id, 4, 50, FinishReason.LENGTH, None, 0, times)
    driver.scheduler.report("p", end)
    assert seconds(generation) == approx({Stage.PREFILL_WAIT: 2.0, Stage.PREFILL: 2.0})


def test_an_attempt_that_is_lost_ends_where_it_was_and_another_begins() -> None:
    driver = Timed()
    generation = driver.armed()
    driver.at(6.0).step_at(generation, 5, 5.0, None)
    driver.scheduler.advance(7.0)
    driver.scheduler.worker_lost("d", LOST)
    (lost,) = generation.attempts.past
    assert (lost.end, lost.decode_worker, lost.num_tokens) == (AttemptEnd.WORKER_LOST, "d", 2)
    assert [stage for stage, *_ in lost.stages()][-1] is Stage.DECODE
    assert not generation.is_stepping
    driver.scheduler.advance(9.0)
    driver.scheduler.cancel(generation)
    assert generation.attempts.current.sequence_id == generation.sequence_id != lost.sequence_id
    assert seconds(generation)[Stage.QUEUE] == approx(1.0 + 2.0)
    assert seconds(generation)[Stage.DECODE] == approx(2.0)


def test_why_an_attempt_was_not_the_last_is_known() -> None:
    def refused(driver: Timed, generation: Generation) -> None:
        failed = SequenceFailed(generation.sequence_id, ResourceExhausted.reason, "full")
        driver.scheduler.report("d", failed)

    def preempted(driver: Timed, generation: Generation) -> None:
        driver.grant(generation)
        driver.effects()
        driver.scheduler.report("d", Preempted(generation.sequence_id, parked=True))
        driver.scheduler.report("d", Preempted(generation.sequence_id))

    def unreachable(driver: Timed, generation: Generation) -> None:
        driver.grant(generation)
        driver.effects()
        failed = SequenceFailed(generation.sequence_id, Unavailable.reason, "gone")
        driver.scheduler.report("p", failed)

    def damaged(driver: Timed, generation: Generation) -> None:
        driver.grant(generation)
        driver.effects()
        failed = SequenceFailed(generation.sequence_id, "DATA_LOSS", "damaged")
        driver.scheduler.report("p", failed)

    def drained(driver: Timed, generation: Generation) -> None:
        driver.join("d2", WorkerRole.DECODE)
        driver.scheduler.draining.cordon("d", 0.0, 1.0)

    for what, why in (
        (refused, AttemptEnd.REFUSED),
        (preempted, AttemptEnd.PREEMPTED),
        (unreachable, AttemptEnd.WORKER_LOST),
        (damaged, AttemptEnd.BAD_KV),
        (drained, AttemptEnd.DRAINED),
    ):
        driver = Timed()
        generation = driver.at(1.0).submit("r")
        driver.effects()
        what(driver, generation)
        assert generation.attempts.past[0].end is why, what
        assert len(generation.attempts.past[0].parked_s) == (what is preempted)
