"""Counts by size, and what a worker's spans add up to."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.histogram import Histogram
from tandem.core.reports import Span, SpanKind
from tandem.core.span_totals import SpanTotals

VALUES = st.floats(0, 100, allow_nan=False)


@given(
    values=st.lists(VALUES),
    bounds=st.lists(VALUES, min_size=1, max_size=8, unique=True).map(sorted),
)
def test_each_bound_counts_what_is_at_most_that(values: list[float], bounds: list[float]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    expected = [(bound, sum(each <= bound for each in values)) for bound in (*bounds, inf)]
    assert list(histogram.cumulative()) == expected
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_steps_and_transfers_add_up() -> None:
    totals = SpanTotals()
    totals.add(Span(SpanKind.STEP, 0, 10, num_tokens=12, num_prefill_tokens=10, waited=True))
    totals.add(Span(SpanKind.STEP, 20, 25, num_tokens=3))
    totals.add(Span(SpanKind.FRAME_SENT, 20, 25, num_bytes=7))
    totals.add(Span(SpanKind.FRAME_RECEIVED, 20, 25, num_bytes=5))
    # Ten of its hundred nanoseconds came after the last compute; of the other all.
    totals.add(Span(SpanKind.TRANSFER, 100, 200, num_bytes=50, compute_end_ns=190))
    totals.add(Span(SpanKind.TRANSFER, 300, 320, num_bytes=50, compute_end_ns=300))
    assert (totals.num_steps, totals.num_waited_steps, totals.step_ns) == (2, 1, 15)
    assert (totals.num_prompt_tokens, totals.num_generated_tokens) == (10, 5)
    assert (totals.num_sent_bytes, totals.num_received_bytes) == (100, 5)
    assert totals.exposed_ns == 30
    assert totals.transfer_s.total == pytest.approx(120e-9)
