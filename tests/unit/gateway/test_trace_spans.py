"""The spans of a generation, from what its attempts went through."""

from __future__ import annotations

import pytest

from gateway.generation import Generation
from gateway.request_metrics import TokenTimes
from gateway.stages import AttemptEnd, Stage, TransferTimes
from gateway.tokens import Ended, TokenRequest
from gateway.tracing.spans import TraceSpan, choice_span, stage_spans
from tandem.core.errors import Cancelled, Unavailable
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

TIMES = TokenTimes(first_s=5.5, newest_s=8.0)


def arrived() -> Generation:
    """Came at 1."""
    params = SamplingParams(max_tokens=5, seed=0)
    return Generation(TokenRequest("r", (5,) * 8, params, choice_index=2), 7, arrived_s=1.0)


def go_through(generation: Generation, *stages: tuple[Stage, float]) -> None:
    for stage, at_s in stages:
        generation.attempts.current.begin(stage, at_s)


def split() -> Generation:
    """Through all stages, a second each, until 8."""
    generation = arrived()
    go_through(generation, *((stage, 1.0 + stage) for stage in Stage))
    attempt = generation.attempts.current
    attempt.joins(3, 4)
    attempt.num_steps, attempt.num_cached_tokens = 1, 4
    generation.prefill_worker, generation.decode_worker = "p", "d"
    generation.answer.token_ids = [50, 51]
    return generation


def ended(generation: Generation, reason: FinishReason = FinishReason.LENGTH) -> Ended:
    generation.end_attempt(8.0)
    return Ended(reason, generation.served_by())


def by_name(generation: Generation) -> dict[str, TraceSpan]:
    return {span.name: span for span in stage_spans(generation)}


def test_each_stage_is_a_span_of_who_worked_at_it() -> None:
    generation = split()
    ended(generation)
    spans = list(stage_spans(generation))
    assert [(each.name, each.start_s, each.worker_id, each.role) for each in spans] == [
        ("queue", 1.0, "", None),
        ("reserve", 2.0, "", None),
        ("prefill_wait", 3.0, "p", WorkerRole.PREFILL),
        ("prefill", 4.0, "p", WorkerRole.PREFILL),
        ("kv_transfer", 5.0, "p", WorkerRole.PREFILL),
        ("armed_wait", 6.0, "d", WorkerRole.DECODE),
        ("decode", 7.0, "d", WorkerRole.DECODE),
    ]
    assert by_name(generation)["prefill"].attributes == {
        "tandem.attempt": 1,
        "tandem.sequence_id": 7,
        "tandem.prefill.tokens": 8,
        "tandem.prefill.cached_tokens": 4,
        "tandem.prefill.steps": 1,
        "tandem.prefill.batches": 1,
        "tandem.prefill.batch_id": 3,
        "tandem.prefill.batch_size": 4,
    }
    assert by_name(generation)["decode"].attributes["tandem.decode.tokens"] == 2


def test_a_transfer_shows_what_of_it_was_hidden_as_well() -> None:
    generation = split()
    generation.attempts.current.transfer = TransferTimes(4.25, 6.5, 99, 2, 0.5)
    ended(generation)
    transfer = by_name(generation)["kv_transfer"]
    assert (transfer.start_s, transfer.end_s) == (4.25, 6.5)
    assert transfer.attributes["tandem.kv.hidden_share"] == 0.5
    assert transfer.attributes["tandem.kv.frames"] == 2


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 100.0), (90.0, 80.0)])
def test_a_transfer_lies_within_its_attempt_whatever_the_clocks_say(start_s, end_s) -> None:
    generation = split()
    generation.attempts.current.transfer = TransferTimes(start_s, end_s, 99, 2, 0.5)
    ended(generation)
    transfer = by_name(generation)["kv_transfer"]
    assert 1.0 <= transfer.start_s <= transfer.end_s <= 8.0


def test_a_decode_worker_that_computes_the_prompt_has_all_of_it() -> None:
    generation = arrived()
    generation.prefill_worker = generation.decode_worker = "d"
    go_through(generation, (Stage.RESERVE, 2.0), (Stage.PREFILL, 3.0), (Stage.DECODE, 4.0))
    ended(generation)
    spans = by_name(generation)
    assert {spans[name].role for name in ("prefill", "decode")} == {WorkerRole.DECODE}
    assert "tandem.prefill.batch_id" not in spans["prefill"].attributes


def test_what_befell_it_is_told_where_it_did() -> None:
    generation = split()
    generation.attempts.current.park(7.5)
    generation.restart(8, 7.75, AttemptEnd.WORKER_LOST)
    ended(generation)
    lost, again = list(stage_spans(generation))[-2:]
    assert (lost.name, lost.error) == ("decode", "worker_lost")
    assert [tuple(event) for event in lost.events] == [("parked", 7.5), ("worker_lost", 7.75)]
    assert (again.name, again.error, again.attributes["tandem.attempt"]) == ("queue", "", 2)


def test_to_be_preempted_is_no_failure() -> None:
    generation = split()
    generation.restart(8, 7.75, AttemptEnd.PREEMPTED)
    ended(generation)
    preempted = list(stage_spans(generation))[-2]
    assert ([event.name for event in preempted.events], preempted.error) == (["preempted"], "")


def test_a_generation_has_vllms_figures() -> None:
    generation = split()
    span = choice_span(generation, TIMES, ended(generation))
    assert (span.name, span.start_s, span.end_s, span.error) == ("llm_request", 1.0, 8.0, "")
    assert [tuple(event) for event in span.events] == [("first_token", 5.5)]
    expected = {
        "gen_ai.request.id": "r",
        "tandem.choice_index": 2,
        "gen_ai.usage.prompt_tokens": 8,
        "gen_ai.usage.completion_tokens": 2,
        "gen_ai.latency.e2e": 7.0,
        "gen_ai.latency.time_in_queue": 1.0,
        "gen_ai.latency.time_to_first_token": 4.5,
        "gen_ai.latency.time_in_model_prefill": 3.5,
        "gen_ai.latency.time_in_model_decode": 2.5,
        "gen_ai.response.finish_reasons": ["length"],
        "tandem.mode": "disaggregated",
    }
    assert expected.items() <= span.attributes.items()


def test_what_ends_in_the_queue_has_spent_all_of_its_time_there() -> None:
    generation = arrived()
    generation.end_attempt(3.0)
    failed = choice_span(generation, TokenTimes(), Unavailable("no worker"))
    assert (failed.error, failed.events) == ("UNAVAILABLE", ())
    assert failed.attributes["gen_ai.latency.time_in_queue"] == 2.0
    assert failed.attributes["tandem.mode"] == "none"
    left = choice_span(generation, TokenTimes(), Cancelled("the client left"))
    assert (left.error, left.attributes["gen_ai.response.finish_reasons"]) == ("", ["abort"])
    assert [span.name for span in stage_spans(generation)] == ["queue"]
