"""How fast KV is sent, by the frames that a worker tells of."""

from __future__ import annotations

import pytest

from gateway.send_rate import SendRate
from tandem.core.reports import Span, SpanKind

MIB = 2**20
MS = 10**6


def frame(start_ms: int, end_ms: int) -> Span:
    return Span(SpanKind.FRAME_SENT, start_ms * MS, end_ms * MS, num_bytes=MIB)


def test_nothing_is_known_before_the_first_frame() -> None:
    rate = SendRate()
    rate.observe([])
    assert rate.seconds(MIB) == 0


def test_frames_that_are_sent_at_once_share_the_time() -> None:
    """Of several transfers, told of together or one by one."""
    frames = [frame(start, start + 40) for start in range(100, 500, 10)]
    together, one_by_one = SendRate(), SendRate()
    together.observe(frames)
    for each in frames:
        one_by_one.observe([each])
    assert together.seconds(40 * MIB) == pytest.approx(0.43)
    # The first of them, when nothing else was under way, counts for less and less.
    assert one_by_one.seconds(40 * MIB) == pytest.approx(0.4, rel=0.05)


def test_time_in_which_nothing_is_sent_does_not_count() -> None:
    rate = SendRate()
    rate.observe([frame(0, 10), frame(1000, 1010)])
    rate.observe([frame(9000, 9010)])
    assert rate.seconds(MIB) == pytest.approx(0.01)


def test_what_was_long_ago_is_forgotten() -> None:
    rate = SendRate()
    rate.observe([frame(0, 1000)])
    rate.observe([frame(start, start + 10) for start in range(1000, 6000, 10)])
    assert rate.seconds(MIB) == pytest.approx(0.01, rel=0.01)
