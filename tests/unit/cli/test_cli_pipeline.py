"""The figures, worked out by hand."""

import pytest

from tandem.core.pipeline import (
    Lane,
    covered_ns,
    gaps_ns,
    hidden_share,
    percentile,
    pipeline_figures,
)
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerRole


def step(start_ns: int, end_ns: int, *, waited: bool = False) -> Span:
    return Span(SpanKind.STEP, start_ns, end_ns, waited=waited)


def transfer(start_ns: int, compute_end_ns: int, commit_ns: int, num_bytes: int = 0) -> Span:
    return Span(
        SpanKind.TRANSFER,
        start_ns,
        commit_ns,
        compute_end_ns=compute_end_ns,
        num_bytes=num_bytes,
    )


@pytest.mark.parametrize(
    ("span", "share"),
    [
        (transfer(100, 180, 200), 0.8),
        (transfer(100, 200, 200), 1.0),
        (transfer(100, 250, 200), 1.0),
        (transfer(100, 100, 200), 0.0),
        # Compute ended before the transfer began: nothing was hidden, not less than nothing.
        (transfer(100, 40, 200), 0.0),
        (transfer(100, 100, 100), 1.0),
    ],
)
def test_hidden_share_of_one_transfer(span: Span, share: float) -> None:
    assert hidden_share([span]) == pytest.approx(share)


def test_hidden_share_weighs_transfers_by_their_time() -> None:
    assert hidden_share([transfer(0, 0, 100), transfer(0, 900, 900)]) == pytest.approx(0.9)


def test_without_transfers_nothing_is_exposed() -> None:
    assert hidden_share([]) == 1.0


def test_time_that_two_spans_cover_counts_once() -> None:
    assert covered_ns([step(50, 60), step(0, 10), step(5, 20), step(7, 9)]) == 30


def test_gaps_lie_between_back_to_back_steps() -> None:
    assert gaps_ns([step(0, 10), step(10, 20), step(25, 40), step(38, 50)]) == [0, 5, 0]
    # The engine had nothing to do: no gap of its making.
    assert gaps_ns([step(0, 10), step(500, 510, waited=True), step(513, 520)]) == [3]
    assert gaps_ns([step(0, 10)]) == []
    assert gaps_ns([]) == []


def test_percentile_is_one_of_the_values() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7], 0.99) == 7


def test_two_engines() -> None:
    prefill = Lane(
        "prefill-0",
        WorkerRole.PREFILL,
        (
            step(0, 40),
            step(40, 80),
            transfer(10, 40, 50, num_bytes=400),
            transfer(45, 80, 80, num_bytes=300),
            Span(SpanKind.FRAME_SENT, 10, 12, num_bytes=10**6),
        ),
    )
    # Its clock is 1000 behind: on the common one it runs from 50 to 100.
    decode = Lane(
        "decode-0",
        WorkerRole.DECODE,
        (step(-950, -930), step(-920, -900)),
        clock_offset_ns=1000,
    )
    figures = pipeline_figures([prefill, decode])
    assert figures.makespan_ns == 100
    assert [lane.busy_ns for lane in figures.lanes] == [80, 40]
    assert [lane.busy_share for lane in figures.lanes] == pytest.approx([0.8, 0.4])
    assert [lane.gap_p50_ns for lane in figures.lanes] == [0, 10]
    assert figures.efficiency == pytest.approx(120 / 200)
    assert figures.transfers.count == 2
    assert figures.transfers.num_bytes == 700
    # From 10 to 80 at least one of them was under way.
    assert figures.transfers.bytes_per_s == pytest.approx(700 / 70 * 1e9)
    assert figures.transfers.hidden_share == pytest.approx(1 - 10 / 75)


def test_a_timeline_without_steps_has_figures() -> None:
    figures = pipeline_figures([Lane("decode-0", WorkerRole.DECODE, ())])
    assert (figures.makespan_ns, figures.efficiency) == (0, 0.0)
    assert pipeline_figures([]).lanes == ()
