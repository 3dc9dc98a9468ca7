"""The timeline as Chrome's trace events, which Perfetto opens.

Each worker is a process. Steps are slices of its one thread; frames and transfers, of which several
are under way at a time, are asynchronous slices beside it, by the sequence that they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from tandem.core.pipeline import Lane, exposed_ns
from tandem.core.reports import Span, SpanKind, step_kind

STEPS_THREAD = 1
# Viewers join asynchronous slices of one category and id.
CATEGORIES = {
    SpanKind.FRAME_SENT: "frames sent",
    SpanKind.FRAME_RECEIVED: "frames received",
    SpanKind.TRANSFER: "KV transfers",
}

Event = Mapping[str, Any]


def trace_events(lanes: Sequence[Lane]) -> dict[str, object]:
    """The trace of all spans, on the clock that the lanes share: the first starts at 0."""
    starts = [span.start_ns + lane.clock_offset_ns for lane in lanes for span in lane.spans]
    origin_ns = min(starts, default=0)
    ids = count(1)
    events: list[Event] = []
    for process, lane in enumerate(lanes, 1):
        events += _names(lane, process)
        for span in lane.spans:
            start_us = (span.start_ns + lane.clock_offset_ns - origin_ns) / 1e3
            if span.kind is SpanKind.STEP:
                events.append(_step(span, process, start_us))
            else:
                events += _asynchronous(span, process, start_us, next(ids))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(lane: Lane, process: int) -> Iterator[Event]:
    for name, arguments in (
        ("process_name", {"name": lane.worker_id}),
        ("process_sort_index", {"sort_index": process}),
        ("thread_name", {"name": "steps"}),
    ):
        yield {
            "ph": "M",
            "name": name,
            "pid": process,
            "tid": STEPS_THREAD,
            "args": arguments,
        }


def _step(step: Span, process: int, start_us: float) -> Event:
    return {
        "ph": "X",
        "name": _step_name(step),
        "cat": "steps",
        "pid": process,
        "tid": STEPS_THREAD,
        "ts": start_us,
        "dur": _duration_us(step),
        "args": {
            "step": step.number,
            "sequences": step.num_seqs,
            "tokens": step.num_tokens,
            "prompt tokens": step.num_prefill_tokens,
            "waited for work": step.waited,
        },
    }


def _step_name(step: Span) -> str:
    kind = step_kind(step.num_tokens, step.num_prefill_tokens)
    prompts = f" {step.num_prefill_tokens} tokens" if step.num_prefill_tokens else ""
    return f"{kind}{prompts} x{step.num_seqs}"


def _asynchronous(span: Span, process: int, start_us: float, number: int) -> Iterator[Event]:
    """A beginning and an end."""
    category = CATEGORIES[span.kind]
    arguments: dict[str, object] = {"sequence": span.sequence_id, "bytes": span.num_bytes}
    if span.kind is SpanKind.TRANSFER:
        arguments["not hidden, us"] = exposed_ns(span) / 1e3
    for phase, at_us in (("b", start_us), ("e", start_us + _duration_us(span))):
        yield {
            "ph": phase,
            "name": category,
            "cat": category,
            "id": number,
            "pid": process,
            "tid": STEPS_THREAD,
            "ts": at_us,
            "args": arguments,
        }


def _duration_us(span: Span) -> float:
    return (span.end_ns - span.start_ns) / 1e3
