"""The spans of a generation that has ended: pure, and without OpenTelemetry.

Workers stamp what they do and tell the gateway, so it is the gateway that makes a worker's spans as
well, in the worker's name. A worker has nothing to export, and its steps cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import NamedTuple

from gateway.generation import Generation
from gateway.request_metrics import TokenTimes
from gateway.stages import Attempt, AttemptEnd, Stage, StageTimes
from gateway.tokens import Ended
from tandem.core.errors import Cancelled, TandemError
from tandem.core.worker import WorkerRole

Attributes = Mapping[str, str | int | float | Sequence[str]]

NAMES = {
    Stage.QUEUE: "queue",
    Stage.RESERVE: "reserve",
    Stage.PREFILL_WAIT: "prefill_wait",
    Stage.PREFILL: "prefill",
    Stage.TRANSFER: "kv_transfer",
    Stage.ARMED_WAIT: "armed_wait",
    Stage.DECODE: "decode",
}
# An attempt that ended otherwise did what it should.
FAILURES = (AttemptEnd.WORKER_LOST, AttemptEnd.BAD_KV)


class SpanEvent(NamedTuple):
    """What happened at a moment within a span."""

    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """A span, in monotonic seconds. It is the gateway's without a `role`, and else a worker's.
    `error` is what it failed by; empty if it did not."""

    name: str
    start_s: float
    end_s: float
    worker_id: str = ""
    role: WorkerRole | None = None
    attributes: Attributes = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    error: str = ""


def choice_span(generation: Generation, times: TokenTimes, event: Ended | TandemError) -> TraceSpan:
    """All of a generation, from its arrival to its end. Name and figures are as vLLM's traces have
    them, beside those of OpenTelemetry's conventions."""
    has_tokens = not isnan(times.first_s)
    is_failure = isinstance(event, TandemError) and not isinstance(event, Cancelled)
    return TraceSpan(
        "llm_request",
        generation.arrived_s,
        generation.attempts.current.end_s,
        attributes={
            **_identity(generation),
            **_usage(generation),
            **_latencies(generation, times),
            "gen_ai.response.finish_reasons": [finish_reason(event)],
            "tandem.mode": generation.served_by().mode_name,
            "tandem.cached_tokens": generation.num_cached_tokens,
            "tandem.attempts": generation.attempts.num_past + 1,
            "tandem.preemptions": generation.setbacks.num_preemptions,
            "tandem.recoveries": generation.setbacks.num_losses,
            "tandem.bad_transfers": generation.setbacks.num_bad_transfers,
        },
        events=(SpanEvent("first_token", times.first_s),) if has_tokens else (),
        error=event.reason if isinstance(event, TandemError) and is_failure else "",
    )


def stage_spans(generation: Generation) -> Iterator[TraceSpan]:
    """Those within it: the stages of each attempt that is known, in order."""
    for attempt in generation.attempts.kept:
        stages = list(attempt.stages())
        for each in stages:
            yield _stage_span(attempt, each, is_last=each is stages[-1])


def finish_reason(event: Ended | TandemError) -> str:
    """Why a generation ended, in one word."""
    if isinstance(event, Ended):
        return event.finish_reason.name.lower()
    return "abort" if isinstance(event, Cancelled) else "error"


def _stage_span(attempt: Attempt, times: StageTimes, *, is_last: bool) -> TraceSpan:
    stage, start_s, end_s = times
    if stage is Stage.TRANSFER and attempt.transfer:
        start_s, end_s = _within(attempt, attempt.transfer.start_s, attempt.transfer.end_s)
    worker_id, role = _owner(attempt, stage)
    events = [SpanEvent("parked", at_s) for at_s in attempt.parked_s if stage is Stage.DECODE]
    end = attempt.end if is_last else None
    if end:
        events.append(SpanEvent(end.value, attempt.end_s))
    return TraceSpan(
        NAMES[stage],
        start_s,
        end_s,
        worker_id,
        role,
        {
            "tandem.attempt": attempt.number,
            "tandem.sequence_id": attempt.sequence_id,
            **_details(attempt, stage),
        },
        tuple(events),
        end.value if end in FAILURES else "",
    )


def _within(attempt: Attempt, start_s: float, end_s: float) -> tuple[float, float]:
    """What of this is within an attempt: clocks are not exact, and a transfer's acknowledgement may
    come when all is over."""
    start_s = min(max(start_s, attempt.start_s), attempt.end_s)
    return start_s, min(max(start_s, end_s), attempt.end_s)


def _owner(attempt: Attempt, stage: Stage) -> tuple[str, WorkerRole | None]:
    """Whose work a stage is."""
    if stage < Stage.PREFILL_WAIT:
        return "", None
    if stage <= Stage.TRANSFER and attempt.prefill_worker != attempt.decode_worker:
        return attempt.prefill_worker, WorkerRole.PREFILL
    return attempt.decode_worker, WorkerRole.DECODE


def _details(attempt: Attempt, stage: Stage) -> Attributes:
    """What there is to say of one stage alone."""
    match stage:
        case Stage.PREFILL:
            return {
                "tandem.prefill.tokens": attempt.num_context_tokens,
                "tandem.prefill.cached_tokens": attempt.num_cached_tokens,
                "tandem.prefill.steps": attempt.num_steps,
                **_batch(attempt),
            }
        case Stage.TRANSFER if attempt.transfer:
            return {
                "tandem.kv.bytes": attempt.transfer.num_bytes,
                "tandem.kv.frames": attempt.transfer.num_frames,
                "tandem.kv.hidden_share": attempt.transfer.hidden_share,
            }
        case Stage.DECODE:
            return {"tandem.decode.tokens": attempt.num_tokens}
    return {}


def _batch(attempt: Attempt) -> Attributes:
    """The prompts that were computed together have the same number; there is none on a decode
    worker."""
    if not attempt.num_batches:
        return {}
    return {
        "tandem.prefill.batches": attempt.num_batches,
        "tandem.prefill.batch_id": attempt.batch_id,
        "tandem.prefill.batch_size": attempt.num_batch_seqs,
    }


def _identity(generation: Generation) -> Attributes:
    request = generation.request
    return {
        "gen_ai.request.id": request.request_id,
        "tandem.choice_index": request.choice_index,
        "tandem.tenant": request.tenant,
    }


def _usage(generation: Generation) -> Attributes:
    num_prompt_tokens, num_tokens = generation.num_prompt_tokens, len(generation.token_ids)
    return {
        "gen_ai.usage.input_tokens": num_prompt_tokens,
        "gen_ai.usage.output_tokens": num_tokens,
        "gen_ai.usage.prompt_tokens": num_prompt_tokens,
        "gen_ai.usage.completion_tokens": num_tokens,
    }


def _latencies(generation: Generation, times: TokenTimes) -> Attributes:
    """Seconds. To the model belongs all that is not the queue's, as in the metrics."""
    arrived_s, placed_s = generation.arrived_s, generation.attempts.placed_s
    end_s = generation.attempts.current.end_s
    latencies = {
        "gen_ai.latency.e2e": end_s - arrived_s,
        "gen_ai.latency.time_in_queue": min(placed_s, end_s) - arrived_s,
    }
    if not isnan(times.first_s):
        latencies |= {
            "gen_ai.latency.time_to_first_token": times.first_s - arrived_s,
            "gen_ai.latency.time_in_model_prefill": times.first_s - placed_s,
            "gen_ai.latency.time_in_model_decode": times.newest_s - times.first_s,
        }
    return latencies
