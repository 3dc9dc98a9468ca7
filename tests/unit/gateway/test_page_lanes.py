"""What the page is told of the lanes."""

from __future__ import annotations

import pytest
from fake_workers import fake_worker

from gateway.page.lane_reader import HISTORY_MS, LaneReader
from gateway.timeline import Timeline
from tandem.core.reports import Span, SpanKind
from tandem.v1 import worker_pb2
from tandem.wire.reports import span_to_wire

NOW_NS = 60 * 10**9


def heard(timeline: Timeline, *spans: Span, worker: str = "d", epoch: int = 1) -> None:
    info = fake_worker(worker, epoch=epoch)
    message = worker_pb2.WorkerHeader(spans=map(span_to_wire, spans))
    timeline.heard(info, message, NOW_NS)


def step(number: int, end_ns: int = NOW_NS) -> Span:
    return Span(
        SpanKind.STEP,
        end_ns - 5000,
        end_ns,
        number=number,
        num_seqs=3,
        num_tokens=40,
        num_prefill_tokens=38,
    )


def test_a_step_and_a_transfer() -> None:
    timeline = Timeline()
    transfer = Span(
        SpanKind.TRANSFER,
        NOW_NS - 10_000,
        NOW_NS,
        sequence_id=7,
        num_bytes=99,
        compute_end_ns=NOW_NS - 4000,
    )
    heard(timeline, step(1), transfer)
    start_us = NOW_NS // 1000
    assert LaneReader(timeline).read(NOW_NS) == {
        "d": [[1, start_us - 5, 5, 3, 40, 38, 1], [4, start_us - 10, 10, 7, 99, 4]]
    }


def test_times_are_on_the_gateways_clock() -> None:
    timeline = Timeline()
    heard(timeline, step(1))
    (lane,) = timeline.lanes
    lane.clock_offset_ns = -(10**9)
    (row,) = LaneReader(timeline).read(NOW_NS - 10**9)["d"]
    assert row[1] == (NOW_NS - 10**9) // 1000 - 5


def test_of_a_transfers_frames_the_first_that_came_in_tells_where_it_goes() -> None:
    timeline = Timeline()
    frame = Span(SpanKind.FRAME_RECEIVED, NOW_NS - 1000, NOW_NS, sequence_id=7)
    sent = Span(SpanKind.FRAME_SENT, NOW_NS - 1000, NOW_NS, sequence_id=7)
    heard(timeline, frame, frame, sent)
    assert LaneReader(timeline).read(NOW_NS) == {"d": [[3, NOW_NS // 1000 - 1, 1, 7]]}


def test_each_span_is_told_once() -> None:
    timeline = Timeline()
    reader = LaneReader(timeline)
    heard(timeline, step(1), step(2))
    assert numbers(reader) == [1, 2]
    assert reader.read(NOW_NS) == {}
    heard(timeline, step(3))
    assert numbers(reader) == [3]


def test_a_worker_that_is_restarted_begins_anew() -> None:
    timeline = Timeline()
    reader = LaneReader(timeline)
    heard(timeline, step(1), step(2))
    reader.read(NOW_NS)
    heard(timeline, step(3), epoch=2)
    assert numbers(reader) == [3]


def test_at_first_only_the_last_seconds_are_told() -> None:
    timeline = Timeline()
    old_ns = NOW_NS - HISTORY_MS * 10**6 - 1
    heard(timeline, step(1, old_ns), step(2))
    reader = LaneReader(timeline)
    assert numbers(reader) == [2]
    # Later, whatever is new: a worker may have been cut off for a while.
    heard(timeline, step(3, old_ns))
    assert numbers(reader) == [3]


def test_of_very_many_the_newest_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.page.lane_reader.MAX_ROWS", 6)
    timeline = Timeline()
    for worker in ("d", "e"):
        heard(timeline, *(step(number) for number in range(10)), worker=worker)
    assert {worker: len(rows) for worker, rows in LaneReader(timeline).read(NOW_NS).items()} == {
        "d": 3,
        "e": 3,
    }


def numbers(reader: LaneReader) -> list[int]:
    return [row[-1] for row in reader.read(NOW_NS)["d"]]
