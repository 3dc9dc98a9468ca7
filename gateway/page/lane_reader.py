"""What is new in the lanes, in rows that are small to send.

Times are microseconds on the gateway's monotonic clock. A row begins with the span's kind, start
and duration; a step's goes on with sequences, tokens, prompt tokens among them, and its number; a
transfer's with its sequence, bytes, and the microseconds of it that no computing hid. Of the frames
that came in, the first of each sequence tells where its transfer goes: its row ends with the
sequence. Other frames are left out: their transfers show them.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.timeline import Lane, Timeline
from tandem.core.pipeline import exposed_ns
from tandem.core.reports import Span, SpanKind

# What whoever begins to look sees of the past.
HISTORY_MS = 10_000
# Of all lanes together, at a time: the newest of each.
MAX_ROWS = 4_000

Row = list[int]


class LaneReader:
    """Reads each lane from where it was last; the first time, the last `HISTORY_MS` of it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        # By worker, of which start of it, and how many of its spans.
        self._read: dict[str, tuple[int, int]] = {}

    def read(self, now_ns: int) -> dict[str, list[Row]]:
        """The new rows of each lane that has any, by worker."""
        lanes = self._timeline.lanes
        num_rows = MAX_ROWS // max(1, len(lanes))
        told: dict[str, list[Row]] = {}
        for lane in lanes:
            if spans := _shown(self._new(lane, now_ns)):
                rows = [_row(each, lane.clock_offset_ns) for each in spans[-num_rows:]]
                told[lane.info.worker_id] = rows
        self._read = {each.info.worker_id: (each.info.epoch, each.num_heard) for each in lanes}
        return told

    def _new(self, lane: Lane, now_ns: int) -> list[Span]:
        epoch, num_read = self._read.get(lane.info.worker_id, (None, 0))
        if epoch is None:
            return lane.newest(len(lane.spans), HISTORY_MS, now_ns)
        return lane.since(num_read if epoch == lane.info.epoch else 0)


def _shown(spans: Iterable[Span]) -> list[Span]:
    """Those that have rows."""
    shown = []
    received: set[int] = set()
    for span in spans:
        match span.kind:
            case SpanKind.FRAME_SENT:
                continue
            case SpanKind.FRAME_RECEIVED if span.sequence_id in received:
                continue
            case SpanKind.FRAME_RECEIVED:
                received.add(span.sequence_id)
        shown.append(span)
    return shown


def _row(span: Span, offset_ns: int) -> Row:
    row = [
        int(span.kind),
        (span.start_ns + offset_ns) // 1000,
        (span.end_ns - span.start_ns) // 1000,
    ]
    match span.kind:
        case SpanKind.STEP:
            return [*row, span.num_seqs, span.num_tokens, span.num_prefill_tokens, span.number]
        case SpanKind.TRANSFER:
            return [*row, span.sequence_id, span.num_bytes, exposed_ns(span) // 1000]
        case _:
            return [*row, span.sequence_id]
