"""What is kept of the workers' spans."""

from __future__ import annotations

from gateway.timeline import MAX_SPANS, Timeline
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.engine.fake.content import fake_layout
from tandem.v1 import worker_pb2

MODEL = ModelInfo("fake", "f" * 64, 256, 2048, frozenset(), "fake")


def worker(epoch: int = 1) -> WorkerInfo:
    return WorkerInfo("d", WorkerRole.DECODE, epoch, MODEL, fake_layout(16), 64, 16, "none")


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
    timeline.heard(worker(), message, 0)
    message.spans[0].number = 2
    assert kept(timeline) == [1]


def test_only_the_newest_are_kept() -> None:
    timeline = Timeline()
    for start in range(0, MAX_SPANS + 100, 100):
        timeline.heard(worker(), header(*range(start, start + 100)), 0)
    assert kept(timeline) == list(range(100, MAX_SPANS + 100))


def test_a_worker_that_was_restarted_begins_anew() -> None:
    timeline = Timeline()
    timeline.heard(worker(epoch=1), header(1, 2), 0)
    timeline.heard(worker(epoch=2), header(3), 0)
    assert kept(timeline) == [3]
