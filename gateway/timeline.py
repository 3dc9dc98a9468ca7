"""What the workers did of late: their spans, and how far their clocks are from the gateway's."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic_ns

from gateway.offload import Offload
from tandem.core import pipeline
from tandem.core.reports import Span
from tandem.core.worker import WorkerInfo
from tandem.v1 import inference_pb2, worker_pb2
from tandem.wire.reports import span_from_wire, span_to_wire

MAX_SPANS = 10_000
# Of all lanes together: some megabytes.
MAX_SPANS_READ = 100_000
MAX_PENDING_READS = 4
# A worker that lives is heard of twice a second.
LOST_NS = 10 * 10**9
MAX_LOST = 8
# Quartz is good to 100 parts in a million.
DRIFT_DIVISOR = 10_000
MAX_UNCERTAINTY_NS = 2**63 - 1


@dataclass(slots=True)
class Lane:
    """One worker's spans, the newest of `num_heard`. The offset comes from the exchange with the
    shortest round trip, but what it says ages: clocks drift apart."""

    info: WorkerInfo
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))
    num_heard: int = 0
    clock_offset_ns: int = 0
    heard_ns: int = 0
    _measured_uncertainty_ns: int = MAX_UNCERTAINTY_NS
    _measured_ns: int = 0

    def clock_uncertainty_ns(self, now_ns: int) -> int:
        """How far the offset may be off."""
        aged_ns = (now_ns - self._measured_ns) // DRIFT_DIVISOR
        return min(MAX_UNCERTAINTY_NS, self._measured_uncertainty_ns + max(0, aged_ns))

    def newest(self, num_spans: int, window_ms: int, now_ns: int) -> list[Span]:
        """At most so many, of those that ended within the window; of all that are kept if it is 0.
        The oldest first."""
        since_ns = now_ns - window_ms * 1_000_000 - self.clock_offset_ns
        spans = [span for span in self.spans if window_ms == 0 or span.end_ns >= since_ns]
        return spans[max(0, len(spans) - num_spans) :]

    def since(self, num_heard: int) -> list[Span]:
        """Those that were heard after the first `num_heard`, and are still kept. The oldest
        first."""
        num_new = min(self.num_heard - num_heard, len(self.spans))
        return list(islice(reversed(self.spans), num_new))[::-1]

    def heard(
        self, header: worker_pb2.WorkerHeader, spans: Sequence[Span], received_ns: int
    ) -> None:
        self.heard_ns = received_ns
        self.spans.extend(spans)
        self.num_heard += len(spans)
        if header.echoed_ns == 0:
            return
        held_ns = header.sent_ns - header.received_ns
        uncertainty = (received_ns - header.echoed_ns - held_ns) // 2
        if 0 <= uncertainty < self.clock_uncertainty_ns(received_ns):
            self._measured_uncertainty_ns, self._measured_ns = uncertainty, received_ns
            self.clock_offset_ns = header.echoed_ns + uncertainty - header.received_ns


class Timeline:
    """The lanes of all workers, by worker id. One that is lost keeps its lane until some more are:
    a worker's id may be its container's, and never come again."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._reading = Offload("timeline", 1, MAX_PENDING_READS)

    def close(self) -> None:
        """Let go of the thread."""
        self._reading.close()

    def heard(
        self, info: WorkerInfo, header: worker_pb2.WorkerHeader, received_ns: int
    ) -> Sequence[Span]:
        """Take a message's spans, and give them on. A worker that was restarted on another host
        has a new clock."""
        lane = self._lanes.get(info.worker_id)
        if lane is None or lane.info.epoch != info.epoch:
            self._forget_lost(received_ns)
            lane = self._lanes[info.worker_id] = Lane(info)
        # Not the messages themselves: each would keep all of the message that it came in.
        spans = [span_from_wire(each) for each in header.spans]
        lane.heard(header, spans, received_ns)
        return spans

    def clock_offset_ns(self, info: WorkerInfo) -> int:
        """What, added to the clock of a worker that was heard, gives this one's."""
        return self._lanes[info.worker_id].clock_offset_ns

    def age_s(self, info: WorkerInfo, header: worker_pb2.WorkerHeader, received_ns: int) -> float:
        """How long ago at the least a message was sent, of a worker that was heard. No longer than
        the round trip that it ends, whatever the clocks say: one may have stood still."""
        if header.echoed_ns == 0:
            return 0.0
        lane = self._lanes[info.worker_id]
        sent_ns = header.sent_ns + lane.clock_offset_ns + lane.clock_uncertainty_ns(received_ns)
        round_trip_ns = received_ns - header.echoed_ns - (header.sent_ns - header.received_ns)
        return max(0, min(received_ns - sent_ns, round_trip_ns)) / 1e9

    @property
    def lanes(self) -> Collection[Lane]:
        """Those that are kept, as they are until the next is heard."""
        return self._lanes.values()

    async def figures(self, window_ms: int) -> pipeline.PipelineFigures:
        """How well the engines of the workers that are there were kept busy of late, worked out on
        a thread. Raises as `read`."""
        return await self._reading.run(1, _figures, self._copies(), window_ms, monotonic_ns())

    async def read(self, window_ms: int) -> inference_pb2.GetTimelineResponse:
        """As `to_wire`, on a thread. Raises `ResourceExhausted` while too many others read."""
        return await self._reading.run(1, _to_wire, self._copies(), window_ms, monotonic_ns())

    def to_wire(self, window_ms: int) -> inference_pb2.GetTimelineResponse:
        """The spans that ended within the last `window_ms`; all that are kept if that is 0. Of very
        many the newest of each lane."""
        return _to_wire(self._copies(), window_ms, monotonic_ns())

    def _copies(self) -> list[Lane]:
        """Not to be changed by what is heard meanwhile."""
        return [replace(lane, spans=lane.spans.copy()) for lane in self._lanes.values()]

    def _forget_lost(self, now_ns: int) -> None:
        lost = [each for each in self._lanes.values() if now_ns - each.heard_ns > LOST_NS]
        lost.sort(key=lambda lane: lane.heard_ns)
        for lane in lost[: max(0, len(lost) - MAX_LOST)]:
            del self._lanes[lane.info.worker_id]


def _figures(lanes: Sequence[Lane], window_ms: int, now_ns: int) -> pipeline.PipelineFigures:
    return pipeline.pipeline_figures(
        [
            pipeline.Lane(
                lane.info.worker_id,
                lane.info.role,
                tuple(lane.newest(MAX_SPANS, window_ms, now_ns)),
                lane.clock_offset_ns,
            )
            for lane in lanes
            if now_ns - lane.heard_ns <= LOST_NS
        ]
    )


def _to_wire(
    lanes: Sequence[Lane], window_ms: int, now_ns: int
) -> inference_pb2.GetTimelineResponse:
    num_spans = MAX_SPANS_READ // max(1, len(lanes))
    return inference_pb2.GetTimelineResponse(
        lanes=[
            inference_pb2.TimelineLane(
                worker_id=lane.info.worker_id,
                role=worker_pb2.WorkerRole.ValueType(lane.info.role),
                clock_offset_ns=lane.clock_offset_ns,
                clock_uncertainty_ns=lane.clock_uncertainty_ns(now_ns),
                spans=map(span_to_wire, lane.newest(num_spans, window_ms, now_ns)),
            )
            for lane in lanes
        ]
    )
