"""What a worker has done in all, added up from its spans."""

from __future__ import annotations

from tandem.core.histogram import Histogram
from tandem.core.pipeline import exposed_ns
from tandem.core.reports import Span, SpanKind

# Seconds of a transfer: from one block on one machine to a long prompt over a slow link.
TRANSFER_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)


class SpanTotals:
    """Steps: how many, for how long, of how many tokens, and how many had to wait for work.
    Transfers: their bytes, how long they took, and how much of that no computing hid. Times are
    nanoseconds, but for the histogram's seconds. Several threads may add spans, each of kinds of
    its own."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_waited_steps = 0
        self.step_ns = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_sent_bytes = 0
        self.num_received_bytes = 0
        self.exposed_ns = 0
        self.transfer_s = Histogram(TRANSFER_BOUNDS)

    def add(self, span: Span) -> None:
        match span.kind:
            case SpanKind.STEP:
                self.num_steps += 1
                self.num_waited_steps += span.waited
                self.step_ns += span.end_ns - span.start_ns
                self.num_prompt_tokens += span.num_prefill_tokens
                self.num_generated_tokens += span.num_tokens - span.num_prefill_tokens
            case SpanKind.FRAME_RECEIVED:
                self.num_received_bytes += span.num_bytes
            case SpanKind.TRANSFER:
                self.num_sent_bytes += span.num_bytes
                self.exposed_ns += exposed_ns(span)
                self.transfer_s.observe(span.duration_s)
