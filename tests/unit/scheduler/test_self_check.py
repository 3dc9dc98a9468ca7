"""Which answers are generated once more, where and when, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import structlog
from lone_gateway import new_dispatcher
from sim_worker import MODEL
from test_scheduler import Driver

from gateway.effects import Checked, CheckResult, Dismiss, Effect, Emit, Send
from gateway.generation import Generation
from gateway.self_check import MAX_CHECKS
from gateway.worker_view import PoolUse
from tandem.core.commands import Admit, Remove, Reserve
from tandem.core.errors import ResourceExhausted, Unavailable
from tandem.core.reports import (
    Armed,
    BatchDone,
    FirstToken,
    Preempted,
    SequenceFailed,
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

TOKENS = (7, 8, 9)


class Checking(Driver):
    """A scheduler that has every answer checked, unless it is told otherwise."""

    def __init__(self, rate: float = 1.0, num_blocks: int = 64) -> None:
        super().__init__(num_blocks=num_blocks, self_check_rate=rate)

    def token(self, worker_id: str, sequence_id: int, position: int, token_id: int) -> None:
        step = StepDone(1, 0, 0, (sequence_id,), (position,), (token_id,), (None,))
        self.scheduler.report(worker_id, step)

    def running(self, name: str = "r", **details: Any) -> Generation:
        """A request that decodes on `d`, with its first token."""
        generation = self.prefilling(name, **details)
        for batch_id in list(self.scheduler._fleet.prefill["p"].batches):
            self.scheduler.report("p", BatchDone(batch_id, 1))
        armed = Armed(generation.sequence_id, generation.num_prompt_tokens, TOKENS[0], 0)
        self.scheduler.report(generation.decode_worker, armed)
        self.scheduler.report("p", TransferDone(generation.sequence_id, 0))
        return generation

    def answer(self, name: str = "r", **details: Any) -> Generation:
        """A request with an answer of `TOKENS`."""
        generation = self.running(name, **details)
        num, worker = generation.num_prompt_tokens, generation.decode_worker
        for place, token_id in enumerate(TOKENS[1:], start=1):
            self.token(worker, generation.sequence_id, num + place, token_id)
        self.scheduler.stop(generation)
        return generation

    def to(self, worker_id: str) -> list[Any]:
        """What a worker is told."""
        return [
            each.command
            for each in self.effects()
            if isinstance(each, Send) and each.worker_id == worker_id
        ]

    def check(self, worker_id: str = "d") -> Reserve:
        """The check that begins now."""
        *_, reserve, admit = self.to(worker_id)
        assert isinstance(reserve, Reserve)
        assert admit == Admit(reserve.sequence_id, compute=True)
        return reserve

    def checks(self) -> list[Checked]:
        return checks_in(self.effects())

    def says(self, reserve: Reserve, *token_ids: int, worker_id: str = "d") -> None:
        """A check's sequence goes on."""
        position = len(reserve.prompt_token_ids) + len(reserve.generated_token_ids)
        for place, token_id in enumerate(token_ids):
            self.token(worker_id, reserve.sequence_id, position + place, token_id)


def checks_in(effects: list[Effect]) -> list[Checked]:
    return [each for each in effects if isinstance(each, Checked)]


def test_an_answer_is_generated_again_and_found_to_be_the_same() -> None:
    driver = Checking()
    generation = driver.answer()
    reserve = driver.check()
    assert reserve.prompt_token_ids == generation.request.prompt_token_ids
    assert reserve.generated_token_ids == ()
    assert reserve.params == replace(generation.request.params, max_tokens=len(TOKENS))
    # Nothing that was cached for the request, nor for any other check.
    assert len(reserve.prefix_salt) == 32
    driver.says(reserve, *TOKENS[:2])
    assert driver.effects() == []
    driver.says(reserve, TOKENS[2])
    effects = driver.effects()
    assert Send("d", Remove(reserve.sequence_id)) in effects
    (checked,) = checks_in(effects)
    assert (checked.result, checked.num_same) == (CheckResult.SAME, 3)
    assert (checked.computed_by, checked.checked_by) == (("d", "p"), "d")


def test_it_is_no_request() -> None:
    driver = Checking()
    driver.answer()
    driver.effects()
    assert set(driver.scheduler.num_in_flight.values()) == {0}
    assert driver.scheduler.num_queued == 0
    assert not list(driver.scheduler.generations)
    assert not any(each.generations for each in driver.scheduler.workers)


@pytest.mark.parametrize("place", range(3))
def test_another_token_is_found_where_it_is(place: int) -> None:
    driver = Checking()
    driver.answer()
    reserve = driver.check()
    driver.says(reserve, *TOKENS[:place], TOKENS[place] + 1)
    effects = driver.effects()
    assert Send("d", Remove(reserve.sequence_id)) in effects
    assert not [each for each in effects if isinstance(each, Emit)]
    (checked,) = checks_in(effects)
    position = len(reserve.prompt_token_ids) + place
    assert checked == Checked("r", 0, CheckResult.WRONG, place, position, ("d", "p"), "d")
    # What the worker computed before it knew that says no more.
    driver.says(reserve, 1, 2)
    assert driver.effects() == []


@pytest.mark.parametrize("model", [{"batch_invariant": False}, {"numerics": "another"}])
def test_where_the_same_bits_are_not_promised_it_only_differs(model: dict[str, Any]) -> None:
    driver = Checking()
    driver.answer()
    driver.effects()
    driver.scheduler.draining.cordon("d", 60.0, 1.0)
    driver.join("e", WorkerRole.DECODE, model=replace(MODEL, **model))
    driver.says(driver.check("e"), TOKENS[0] + 1, worker_id="e")
    assert [each.result for each in driver.checks()] == [CheckResult.DIFFERS]


def test_kv_of_another_kind_may_have_been_in_a_cache() -> None:
    """Whoever was there beside the worker that answered, it may have had KV of: an answer that
    differs need not be wrong."""
    driver = Checking()
    driver.join("e", WorkerRole.DECODE, model=replace(MODEL, numerics="another"))
    driver.scheduler.worker_lost("e", Unavailable("lost"))
    driver.answer()
    driver.says(driver.check(), TOKENS[0] + 1)
    assert [each.result for each in driver.checks()] == [CheckResult.DIFFERS]


def test_it_gives_way_before_a_request_comes_and_goes_on_behind_what_was_the_same() -> None:
    driver = Checking()
    driver.answer()
    check = driver.check()
    driver.says(check, *TOKENS[:2])
    live = driver.submit("live")
    removed, reserve = driver.to("d")
    assert removed == Remove(check.sequence_id)
    assert reserve.sequence_id == live.sequence_id
    driver.says(check, 1)
    driver.scheduler.cancel(live)
    again = driver.check()
    assert again.sequence_id not in (check.sequence_id, live.sequence_id)
    assert again.prefix_salt == check.prefix_salt
    assert again.generated_token_ids == TOKENS[:2]
    driver.says(again, TOKENS[2])
    assert [each.result for each in driver.checks()] == [CheckResult.SAME]


def test_none_begins_beside_a_request() -> None:
    driver = Checking()
    live = driver.running("live", max_tokens=9)
    cancelled = driver.running("cancelled")
    driver.scheduler.cancel(cancelled)
    assert driver.to("d") == [Remove(cancelled.sequence_id)]
    driver.scheduler.cancel(live)
    # What a client left is checked as far as it came.
    assert driver.check().params.max_tokens == 1


def test_none_runs_while_a_request_waits_for_room() -> None:
    driver = Checking(num_blocks=8)
    driver.answer(length=12)
    check = driver.check()
    driver.scheduler.heard("d", PoolUse(4), 1.0)
    driver.submit("large", length=19, max_tokens=1)
    driver.submit("as large", length=15, max_tokens=5)
    assert Remove(check.sequence_id) in driver.to("d")


def test_one_begins_when_there_is_room_for_it() -> None:
    driver = Checking()
    driver.scheduler.heard("d", PoolUse(1), 1.0)
    live = driver.submit("r", length=3, max_tokens=1)
    driver.effects()
    assert live.decode is None
    driver.scheduler.heard("d", PoolUse(0), 1.0)
    driver.scheduler.report("p", FirstToken(live.sequence_id, 3, TOKENS[0], FinishReason.LENGTH))
    assert driver.to("d") == []
    assert driver.scheduler.heard("d", PoolUse(1), 2.0)
    assert driver.check().prompt_token_ids == live.request.prompt_token_ids


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_it_holds_up_no_worker_that_is_to_let_go(how: str) -> None:
    driver = Checking()
    driver.answer()
    check = driver.check()
    if how == "drain":
        driver.scheduler.draining.cordon("d", 60.0, 1.0)
    else:
        driver.scheduler.draining.stops("d", 60.0, 1.0)
    effects = driver.effects()
    assert effects[0] == Send("d", Remove(check.sequence_id))
    assert [each for each in effects if isinstance(each, Dismiss)] == (
        [Dismiss("d")] if how == "stop" else []
    )
    driver.join("e", WorkerRole.DECODE)
    assert driver.check("e").prefix_salt == check.prefix_salt


@pytest.mark.parametrize("is_suspected_first", [False, True])
def test_what_costs_a_worker_its_life_is_tried_on_no_other(is_suspected_first: bool) -> None:
    driver = Checking()
    driver.answer()
    check = driver.check()
    driver.says(check, TOKENS[0])
    effects = []
    if is_suspected_first:
        driver.scheduler.worker_suspected("d")
        effects = driver.effects()
        assert Send("d", Remove(check.sequence_id)) in effects
    driver.scheduler.worker_lost("d", Unavailable("lost"))
    (checked,) = checks_in([*effects, *driver.effects()])
    assert (checked.result, checked.num_same) == (CheckResult.FAILED, 1)
    driver.join("d", WorkerRole.DECODE, epoch=2)
    driver.join("e", WorkerRole.DECODE)
    assert driver.effects() == []


def test_who_did_not_answer_checks() -> None:
    driver = Checking()
    live = driver.running("live", max_tokens=9)
    for name in ("own", "another's"):
        driver.scheduler.cancel(driver.running(name))
    driver.scheduler._self_checks._waiting[-1].computed_by = ("e",)
    driver.scheduler.cancel(live)
    assert driver.check().key.request_id == "another's"


def test_what_a_worker_cannot_compute_is_given_up() -> None:
    driver = Checking()
    driver.answer()
    check = driver.check()
    driver.scheduler.report("d", SequenceFailed(check.sequence_id, "INTERNAL", "broken"))
    (checked,) = driver.checks()
    assert checked.result is CheckResult.FAILED
    assert driver.effects() == []


@pytest.mark.parametrize(
    "report",
    [
        lambda number: SequenceFailed(number, ResourceExhausted.reason, "no room"),
        Preempted,
    ],
)
def test_what_a_worker_has_no_room_for_waits(report: Any) -> None:
    driver = Checking()
    driver.answer()
    check = driver.check()
    driver.scheduler.report("d", report(check.sequence_id))
    assert driver.check().prefix_salt == check.prefix_salt


def test_few_wait_and_the_oldest_is_dropped() -> None:
    driver = Checking()
    live = driver.running("live", max_tokens=9)
    for number in range(MAX_CHECKS):
        driver.scheduler.cancel(driver.running(str(number)))
        assert driver.checks() == []
    driver.scheduler.cancel(live)
    (dropped,) = driver.checks()
    assert (dropped.request_id, dropped.result) == ("0", CheckResult.DROPPED)


def test_a_share_of_the_answers_is_checked_and_always_the_same() -> None:
    def sampled(rate: float) -> set[str]:
        driver = Checking(rate)
        found = set()
        for number in range(50):
            generation = driver.answer(f"r{number}", length=1)
            if checks := [each for each in driver.to("d") if isinstance(each, Reserve)]:
                found.add(generation.request.request_id)
                driver.says(checks[0], *TOKENS)
                driver.effects()
        return found

    assert sampled(0.0) == set()
    some = sampled(0.3)
    assert 5 < len(some) < 25
    assert some == sampled(0.3)
    assert some < sampled(0.6) < sampled(1.0)
    assert len(sampled(1.0)) == 50


def test_what_is_wrong_is_told_without_a_token() -> None:
    dispatcher = new_dispatcher(Checking().scheduler)
    with structlog.testing.capture_logs() as errors:
        for result in (CheckResult.SAME, CheckResult.DIFFERS, CheckResult.WRONG):
            dispatcher._effects._hands.checked(Checked("r", 0, result, 3, 12, ("d", "p"), "d"))
    (line,) = errors
    assert line == {
        "event": "self-check ended",
        "log_level": "error",
        "request_id": "r",
        "choice_index": 0,
        "result": "wrong",
        "num_same": 3,
        "position": 12,
        "computed_by": ("d", "p"),
        "checked_by": "d",
    }
    assert dispatcher.metrics.self_checks == {"same": 1, "differs": 1, "wrong": 1}
    assert dispatcher.metrics.num_checked_tokens == 9
