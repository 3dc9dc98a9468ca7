"""What is kept of the workers' spans."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fake_workers import fake_worker

from gateway.timeline import LOST_NS, MAX_LOST, MAX_SPANS, Timeline
from tandem.core.reports import Span
from tandem.v1 import worker_pb2
from tandem.wire.reports import span_to_wire


def header(*numbers: int) -> worker_pb2.WorkerHeader:
    step = worker_pb2.SPAN_KIND_STEP
    return worker_pb2.WorkerHeader(
        spans=[worker_pb2.Span(kind=step, start_ns=1, end_ns=2, number=n) for n in numbers]
    )


def kept(timeline: Timeline) -> list[int]:
    (lane,) = timeline.to_wire(0).lanes
    return [span.number for span in lane.spans]


def test_spans_are_copied_out_of_their_message() -> None:
    """A part of a message keeps all of it: each step's span would keep that step's tokens."""
    timeline = Timeline()
    message = header(1)
    timeline.heard(fake_worker(), message, 0)
    message.spans[0].number = 2
    assert kept(timeline) == [1]


def test_only_the_newest_are_kept() -> None:
    timeline = Timeline()
    for start in range(0, MAX_SPANS + 100, 100):
        timeline.heard(fake_worker(), header(*range(start, start + 100)), 0)
    assert kept(timeline) == list(range(100, MAX_SPANS + 100))


def test_a_worker_that_was_restarted_begins_anew() -> None:
    timeline = Timeline()
    timeline.heard(fake_worker(epoch=1), header(1, 2), 0)
    timeline.heard(fake_worker(epoch=2), header(3), 0)
    assert kept(timeline) == [3]


def exchange(
    sent_ns: int, offset_ns: int, round_trip_ns: int
) -> tuple[worker_pb2.WorkerHeader, int]:
    """What a worker whose clock is `offset_ns` behind answers at once, and when that is here. The
    way there takes no time."""
    there_ns = sent_ns - offset_ns
    answer = worker_pb2.WorkerHeader(echoed_ns=sent_ns, received_ns=there_ns, sent_ns=there_ns)
    return answer, sent_ns + round_trip_ns


def test_a_clocks_offset_is_that_of_the_shortest_round_trip_of_late() -> None:
    """A clock that goes wrong by 50 parts in a million is 4 s off after a day."""
    timeline, day_s = Timeline(), 24 * 3600
    timeline.heard(fake_worker(), *exchange(10**9, 0, round_trip_ns=200_000))
    for second in range(10, day_s, 10):
        round_trip_ns = 40_000_000 if second % 600 else 1_000_000
        timeline.heard(fake_worker(), *exchange(second * 10**9, second * 50_000, round_trip_ns))
    off_ns = timeline.clock_offset_ns(fake_worker()) - day_s * 50_000
    (lane,) = timeline.lanes
    assert abs(off_ns) <= lane.clock_uncertainty_ns(day_s * 10**9) < 100_000_000


def test_a_message_is_as_old_as_the_clocks_can_tell() -> None:
    """Of a worker whose clock is an hour behind."""
    timeline, worker, behind_ns = Timeline(), fake_worker(), 3600 * 10**9
    message, here_ns = exchange(behind_ns, behind_ns, round_trip_ns=2_000_000)
    timeline.heard(worker, message, here_ns)
    assert timeline.age_s(worker, message, here_ns) == pytest.approx(0, abs=0.01)
    assert timeline.age_s(worker, message, here_ns + 3 * 10**9) == pytest.approx(3.0, abs=0.01)


def test_a_message_is_no_older_than_what_it_answers() -> None:
    """The worker's clock stood still for 5 s, and its ways have become too long to tell."""
    timeline, second_ns = Timeline(), 10**9
    timeline.heard(fake_worker(), *exchange(second_ns, 0, round_trip_ns=200_000))
    message, here_ns = exchange(11 * second_ns, 5 * second_ns, round_trip_ns=40_000_000)
    timeline.heard(fake_worker(), message, here_ns)
    assert timeline.clock_offset_ns(fake_worker()) < second_ns
    assert timeline.age_s(fake_worker(), message, here_ns) <= 0.04


def test_of_the_workers_that_are_lost_the_last_keep_their_lanes() -> None:
    """Each of a thousand containers had a name of its own. The first lived almost as long as all
    of them."""
    timeline = Timeline()
    for number in range(1000):
        timeline.heard(fake_worker(f"d-{number}"), header(number), number * 2 * LOST_NS)
        if number < 998:
            timeline.heard(fake_worker("d-0"), header(number), number * 2 * LOST_NS + 1)
    newest = [f"d-{number}" for number in range(1000 - MAX_LOST, 1000)]
    assert [lane.worker_id for lane in timeline.to_wire(0).lanes] == ["d-0", *newest]


def test_no_lane_goes_of_a_worker_that_is_there() -> None:
    timeline = Timeline()
    for number in range(10 * MAX_LOST):
        timeline.heard(fake_worker(f"d-{number}"), header(number), number)
    for _ in range(3):
        timeline.heard(fake_worker(epoch=2), header(1), LOST_NS)
    assert len(timeline.to_wire(0).lanes) == 10 * MAX_LOST + 1


def test_of_very_many_spans_the_newest_of_each_lane_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.timeline.MAX_SPANS_READ", 6)
    timeline = Timeline()
    for worker_id in ("d", "e"):
        timeline.heard(fake_worker(worker_id), header(*range(10)), 0)
    for lane in timeline.to_wire(0).lanes:
        assert [span.number for span in lane.spans] == [7, 8, 9]


async def test_it_is_read_on_a_thread_while_more_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline()
    timeline.heard(fake_worker(), header(*range(100)), 0)
    may_go_on, threads = threading.Event(), set()

    def slow(span: Span) -> worker_pb2.Span:
        threads.add(threading.get_ident())
        assert may_go_on.wait(10)
        return span_to_wire(span)

    monkeypatch.setattr("gateway.timeline.span_to_wire", slow)
    reading = asyncio.create_task(timeline.read(0))
    await asyncio.sleep(0)
    timeline.heard(fake_worker(), header(100), 0)
    may_go_on.set()
    (lane,) = (await reading).lanes
    assert len(lane.spans) == 100
    assert threading.get_ident() not in threads
    timeline.close()


async def test_figures_are_of_the_workers_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.timeline.monotonic_ns", lambda: 2 * LOST_NS)
    timeline = Timeline()
    timeline.heard(fake_worker("lost"), header(1), LOST_NS - 1)
    timeline.heard(fake_worker("there"), header(1), LOST_NS)
    figures = await timeline.figures(0)
    assert [lane.worker_id for lane in figures.lanes] == ["there"]
    assert figures.efficiency == 1.0
    timeline.close()
