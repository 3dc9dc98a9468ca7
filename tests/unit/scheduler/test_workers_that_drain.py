"""What a draining worker keeps, what goes on elsewhere, and when it is let go."""

from __future__ import annotations

from math import inf

import pytest
from test_scheduler import LOST, Driver

from gateway.decode_view import DecodeView
from gateway.draining import MAX_GONE
from gateway.effects import Dismiss
from gateway.generation import Generation, Phase
from tandem.core.commands import PrefillBatch, Remove, Reserve
from tandem.core.errors import NotFound, Unavailable
from tandem.core.reports import Armed, BatchDone, FirstToken, Span, SpanKind, StepDone, TransferDone
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

STEP_S = 0.1


class Drains(Driver):
    """A fleet whose decode steps take `STEP_S`."""

    def __init__(self, **details: int) -> None:
        super().__init__(**details)
        self.is_measured("d")

    def is_measured(self, worker_id: str) -> None:
        for _ in range(10):
            self.scheduler._fleet.of(worker_id).heard(
                0.0, [Span(SpanKind.STEP, 0, int(STEP_S * 1e9))]
            )

    def decoding(self, name: str = "r", max_tokens: int = 5) -> Generation:
        """A request whose first token is out, and whose KV has moved."""
        generation = self.prefilling(name, max_tokens=max_tokens)
        first = FirstToken(generation.sequence_id, generation.num_prompt_tokens, 7, None)
        self.scheduler.report("p", first)
        self.scheduler.report(
            "d", Armed(generation.sequence_id, generation.num_prompt_tokens, 7, 0)
        )
        self.scheduler.report("p", TransferDone(generation.sequence_id, 1))
        self.batch_done()
        self.effects()
        return generation

    def drains_beside_a_full_one(self) -> DecodeView:
        """The decode worker stops, and the only other, `d2`, has refused a reservation."""
        self.join("d2", WorkerRole.DECODE)
        other = self.scheduler._fleet.decode["d2"]
        other.num_refused_blocks = 1
        self.scheduler.draining.stops("d", 4.0, now=0.0)
        return other

    def batch_done(self) -> None:
        """The prefill worker has computed its first batch."""
        batch_id = next(iter(self.scheduler._fleet.prefill["p"].batches))
        self.scheduler.report("p", BatchDone(batch_id, 1))

    def dismissed(self) -> list[str]:
        return [each.worker_id for each in self.effects() if isinstance(each, Dismiss)]

    def end(self, generation: Generation, worker_id: str = "d") -> None:
        position = generation.num_prompt_tokens + len(generation.token_ids)
        ids, positions, tokens = (generation.sequence_id,), (position,), (9,)
        step = StepDone(1, 0, 1, ids, positions, tokens, (FinishReason.STOP,))
        self.scheduler.report(worker_id, step)


def test_a_draining_worker_gets_nothing_new() -> None:
    driver = Drains()
    driver.join("d2", WorkerRole.DECODE)
    driver.scheduler.draining.stops("d", 10.0, now=0.0)
    for number in range(4):
        driver.submit(str(number))
    assert len(driver.commands(Reserve, "d2")) == 4


@pytest.mark.parametrize("how", ["stops", "cordon"])
def test_for_a_draining_decode_worker_a_prefill_worker_keeps_no_blocks(how: str) -> None:
    """More than half of them are on their way to the one that is left."""
    driver = Drains(num_blocks=16)
    driver.prefilling("on its way to d", length=36)
    driver.join("d2", WorkerRole.DECODE)
    getattr(driver.scheduler.draining, how)("d2", 10.0, now=0.0)
    driver.submit("second", length=8)
    assert [each.key.request_id for each in driver.commands(Reserve, "d")] == ["second"]


@pytest.mark.parametrize(("worker_id", "role"), [("p", "prefill"), ("d", "decode")])
def test_without_another_worker_nobody_is_let_in(worker_id: str, role: str) -> None:
    driver = Drains()
    assert driver.scheduler.is_ready
    driver.scheduler.draining.cordon(worker_id, 10.0, now=0.0)
    assert not driver.scheduler.is_ready
    with pytest.raises(Unavailable, match=f"no {role} worker"):
        driver.submit("r")
    driver.scheduler.draining.uncordon(worker_id, now=0.0)
    assert driver.scheduler.is_ready
    driver.submit("r")


def test_what_will_be_done_in_time_stays_and_the_rest_goes_on_elsewhere() -> None:
    driver = Drains()
    short, long = (driver.decoding(name, max_tokens=50) for name in ("short", "long"))
    for _ in range(45):
        driver.step(short)
    driver.effects()
    driver.join("d2", WorkerRole.DECODE)
    driver.scheduler.draining.stops("d", 4.0, now=0.0)
    (removed,) = driver.commands(Remove, "d")
    assert short.phase is Phase.DECODING
    assert long.phase is Phase.RESERVING
    assert removed.sequence_id != long.sequence_id, "another attempt has another number"
    assert list(long.context_token_ids) == [*long.request.prompt_token_ids, 7]
    assert long.setbacks.num_losses == 0


def test_what_nobody_has_room_for_goes_on_where_it_is_until_somebody_has() -> None:
    driver = Drains()
    both = [driver.decoding(name, max_tokens=50) for name in ("r", "s")]
    other = driver.drains_beside_a_full_one()
    assert not driver.commands(Remove, "d")
    assert [each.phase for each in both] == [Phase.DECODING] * 2
    other.num_refused_blocks = 0
    assert len(driver.commands(Reserve, "d2")) == 1
    # The other waits for the prefill worker, where it is.
    assert [each.phase for each in both] == [Phase.RESERVING, Phase.DECODING]
    driver.grant(both[0], "d2")
    assert len(driver.commands(Reserve, "d2")) == 1


def test_what_has_ended_before_somebody_has_room_for_it_does_not_begin_again() -> None:
    driver = Drains()
    generation = driver.decoding(max_tokens=50)
    other = driver.drains_beside_a_full_one()
    driver.effects()
    driver.end(generation)
    other.num_refused_blocks = 0
    assert driver.commands(Reserve) == []
    assert generation.phase is Phase.ENDED


def test_it_goes_on_where_it_is_while_nobody_could_compute_its_context() -> None:
    driver = Drains()
    long = driver.decoding(max_tokens=50)
    other = driver.drains_beside_a_full_one()
    driver.effects()
    driver.scheduler.worker_lost("p", Unavailable("it was lost"))
    other.num_refused_blocks = 0
    driver.effects()
    assert long.phase is Phase.DECODING


def test_it_stays_where_it_is_while_no_prefill_worker_is_large_enough_for_its_context() -> None:
    driver = Drains()
    generation = driver.decoding(max_tokens=50)
    driver.scheduler.worker_lost("p", LOST)
    driver.join("p2", WorkerRole.PREFILL, num_blocks=1)
    driver.join("d2", WorkerRole.DECODE)
    driver.scheduler.draining.stops("d", 4.0, now=0.0)
    driver.scheduler.expire(now=4.0)
    assert driver.events() == []
    assert generation.phase is Phase.DECODING


def test_what_waits_already_gets_the_room_first() -> None:
    driver = Drains()
    long = driver.decoding(max_tokens=50)
    other = driver.drains_beside_a_full_one()
    queued = driver.submit("queued")
    driver.effects()
    assert queued.phase is Phase.QUEUED
    assert long.phase is Phase.DECODING
    other.num_refused_blocks = 0
    driver.effects()
    assert queued.phase is Phase.RESERVING
    assert long.phase is Phase.DECODING


@pytest.mark.parametrize(("timeout_s", "rest_s"), [(4.0, 2.0), (10.0, 2.0), (2.0, 1.0)])
def test_shortly_before_the_end_all_that_is_left_goes_on_elsewhere(
    timeout_s: float, rest_s: float
) -> None:
    driver = Drains()
    generation = driver.decoding(max_tokens=5)
    driver.join("d2", WorkerRole.DECODE)
    driver.scheduler._fleet.decode["d2"].num_refused_blocks = 1
    driver.scheduler.draining.stops("d", timeout_s, now=10.0)
    over_s = 10.0 + timeout_s - rest_s
    assert driver.scheduler.next_deadline_s == over_s
    driver.scheduler.expire(now=over_s - 0.5)
    assert generation.phase is Phase.DECODING
    # What is said at that time does not hide that it has come.
    driver.hear("d", now=over_s)
    assert driver.scheduler.next_deadline_s == over_s
    driver.scheduler.expire(now=over_s)
    assert driver.commands(Remove, "d")
    assert generation.phase is Phase.QUEUED, "there is room or not"
    assert driver.scheduler.next_deadline_s == inf


def test_without_another_worker_all_stays_until_there_is_one() -> None:
    driver = Drains()
    generation = driver.decoding(max_tokens=50)
    driver.scheduler.draining.stops("d", 4.0, now=0.0)
    driver.scheduler.expire(now=3.0)
    assert generation.phase is Phase.DECODING
    driver.join("d2", WorkerRole.DECODE)
    assert driver.commands(Reserve, "d2")


def test_a_suspected_worker_is_no_other_worker() -> None:
    driver = Drains()
    generation = driver.decoding(max_tokens=50)
    driver.join("d2", WorkerRole.DECODE)
    driver.scheduler.worker_suspected("d2")
    driver.scheduler.draining.cordon("d", 0.0, now=0.0)
    assert generation.phase is Phase.DECODING
    driver.scheduler.worker_trusted("d2")
    assert driver.commands(Reserve, "d2")


def test_kv_under_way_from_a_draining_prefill_worker_arrives_before_it_is_let_go() -> None:
    driver = Drains()
    generation = driver.prefilling()
    driver.join("p2", WorkerRole.PREFILL)
    driver.scheduler.draining.stops("p", 10.0, now=0.0)
    position = generation.num_prompt_tokens
    driver.scheduler.report("p", FirstToken(generation.sequence_id, position, 7, None))
    driver.scheduler.report("d", Armed(generation.sequence_id, position, 7, 0))
    driver.scheduler.expire(now=9.0)
    assert driver.dismissed() == []
    driver.scheduler.report("p", TransferDone(generation.sequence_id, 1))
    assert driver.dismissed() == ["p"]
    assert generation.phase is Phase.DECODING


def test_a_long_prompt_that_has_begun_goes_on_where_it_is() -> None:
    driver = Drains(max_batch_tokens=8)
    driver.submit("r", length=20, max_tokens=1)
    assert len(driver.commands(PrefillBatch, "p")) == 2
    driver.join("p2", WorkerRole.PREFILL)
    driver.scheduler.draining.stops("p", 10.0, now=0.0)
    driver.batch_done()
    (last,) = driver.commands(PrefillBatch)
    assert [chunk.last for chunk in last.chunks] == [True]


def test_a_worker_is_let_go_once_when_it_holds_nothing_and_only_if_it_is_to_end() -> None:
    driver = Drains()
    generation = driver.decoding()
    assert driver.scheduler.draining.stops("d", 10.0, now=0.0)
    assert not driver.scheduler.draining.stops("d", 5.0, now=5.0)
    driver.scheduler.draining.cordon("p", 10.0, now=0.0)
    assert driver.dismissed() == []
    driver.end(generation)
    assert driver.dismissed() == ["d"]
    assert driver.dismissed() == []


def test_a_worker_that_stops_cannot_be_put_back() -> None:
    driver = Drains()
    driver.scheduler.draining.cordon("d", 10.0, now=0.0)
    driver.scheduler.draining.stops("d", 10.0, now=0.0)
    driver.scheduler.draining.uncordon("d", now=0.0)
    assert not driver.scheduler.is_ready
    driver.scheduler.worker_lost("d", LOST)
    driver.join("d", WorkerRole.DECODE)
    assert driver.scheduler.is_ready, "a worker that is started anew serves"


def test_a_worker_that_is_put_back_keeps_what_it_holds() -> None:
    driver = Drains()
    generation = driver.decoding(max_tokens=50)
    draining = driver.scheduler.draining
    for timeouts_s, over_s in (((4.0, 60.0), 3.0), ((60.0,), 59.0)):
        for timeout_s in timeouts_s:
            draining.cordon("d", timeout_s, now=1.0)
            assert driver.scheduler.next_deadline_s == over_s
        draining.uncordon("d", now=1.0)
        assert driver.scheduler.next_deadline_s == inf
    driver.join("d2", WorkerRole.DECODE)
    driver.scheduler.expire(now=60.0)
    driver.effects()
    assert generation.phase is Phase.DECODING


@pytest.mark.parametrize(("worker_id", "role"), [("p", "PREFILL"), ("d", "DECODE")])
def test_a_drained_worker_whose_link_was_lost_stays_out_of_service(
    worker_id: str, role: str
) -> None:
    driver = Drains()
    driver.scheduler.draining.cordon(worker_id, 10.0, now=0.0)
    for _ in range(2):
        driver.scheduler.worker_lost(worker_id, LOST)
        driver.join(worker_id, WorkerRole[role])
        assert not driver.scheduler.is_ready, "it is the same process"
    driver.scheduler.draining.uncordon(worker_id, now=0.0)
    driver.scheduler.worker_lost(worker_id, LOST)
    driver.join(worker_id, WorkerRole[role])
    assert driver.scheduler.is_ready


def test_a_drained_worker_that_was_started_anew_serves() -> None:
    driver = Drains()
    driver.scheduler.draining.cordon("d", 10.0, now=0.0)
    driver.scheduler.worker_lost("d", LOST)
    driver.join("d", WorkerRole.DECODE, epoch=2)
    assert driver.scheduler.is_ready
    driver.submit("r")
    assert driver.commands(Reserve, "d")


def test_of_drained_workers_that_never_return_only_the_newest_are_remembered() -> None:
    driver = Drains()
    names = [f"d{number}" for number in range(MAX_GONE + 2)]
    for name in names:
        driver.join(name, WorkerRole.DECODE)
        driver.scheduler.draining.cordon(name, 10.0, now=0.0)
        driver.scheduler.worker_lost(name, LOST)
    driver.scheduler.worker_lost("d", LOST)
    # The last order was given while its worker was there, and all that was before it was gone.
    driver.join(names[1], WorkerRole.DECODE)
    assert not driver.scheduler.is_ready
    driver.join(names[0], WorkerRole.DECODE)
    assert driver.scheduler.is_ready


def test_who_is_not_there_cannot_be_drained() -> None:
    driver = Drains()
    for order in (
        lambda: driver.scheduler.draining.cordon("x", 1.0, 0.0),
        lambda: driver.scheduler.draining.uncordon("x", now=0.0),
    ):
        with pytest.raises(NotFound, match="no worker named 'x'"):
            order()
