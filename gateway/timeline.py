"""What the workers did of late: their spans, and how far their clocks are from the gateway's."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from time import monotonic_ns

from tandem.core.reports import Span
from tandem.core.worker import WorkerInfo
from tandem.v1 import inference_pb2, worker_pb2
from tandem.wire.reports import span_from_wire, span_to_wire

MAX_SPANS = 10_000


@dataclass(slots=True)
class Lane:
    """One worker's spans. The offset comes from the exchange with the shortest round trip."""

    info: WorkerInfo
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))
    clock_offset_ns: int = 0
    clock_uncertainty_ns: int = 2**63 - 1

    def heard(self, header: worker_pb2.WorkerHeader, received_ns: int) -> None:
        # Not the messages themselves: each would keep all of the message that it came in.
        self.spans.extend(map(span_from_wire, header.spans))
        if header.echoed_ns == 0:
            return
        held_ns = header.sent_ns - header.received_ns
        uncertainty = (received_ns - header.echoed_ns - held_ns) // 2
        if 0 <= uncertainty < self.clock_uncertainty_ns:
            self.clock_uncertainty_ns = uncertainty
            self.clock_offset_ns = header.echoed_ns + uncertainty - header.received_ns


class Timeline:
    """All lanes, by worker id. A worker that is lost keeps its lane."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

    def heard(self, info: WorkerInfo, header: worker_pb2.WorkerHeader, received_ns: int) -> None:
        """Take a message's spans. A worker that was restarted on another host has a new clock."""
        lane = self._lanes.get(info.worker_id)
        if lane is None or lane.info.epoch != info.epoch:
            lane = self._lanes[info.worker_id] = Lane(info)
        lane.heard(header, received_ns)

    def to_wire(self, window_ms: int) -> inference_pb2.GetTimelineResponse:
        """The spans that ended within the last `window_ms`; all that are kept if that is 0."""
        now_ns = monotonic_ns()
        return inference_pb2.GetTimelineResponse(
            lanes=[
                inference_pb2.TimelineLane(
                    worker_id=lane.info.worker_id,
                    role=worker_pb2.WorkerRole.ValueType(lane.info.role),
                    clock_offset_ns=lane.clock_offset_ns,
                    clock_uncertainty_ns=lane.clock_uncertainty_ns,
                    spans=[
                        span_to_wire(span)
                        for span in lane.spans
                        if window_ms == 0
                        or span.end_ns + lane.clock_offset_ns >= now_ns - window_ms * 1_000_000
                    ],
                )
                for lane in self._lanes.values()
            ]
        )
