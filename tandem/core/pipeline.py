"""How well the engines are kept busy, and the transfers hidden: figures from the workers' spans.

Times are nanoseconds. A lane's spans are on its worker's own clock; the offset, which is known only
within some uncertainty, enters nothing but the makespan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerRole

START = attrgetter("start_ns")


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker's spans. `clock_offset_ns` puts them on the clock that all lanes share."""

    worker_id: str
    role: WorkerRole
    spans: tuple[Span, ...]
    clock_offset_ns: int = 0

    def of_kind(self, kind: SpanKind) -> list[Span]:
        """In order of their start."""
        return sorted((span for span in self.spans if span.kind is kind), key=START)


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One engine. `busy_share` is of the makespan. The gaps are those that work had to wait for."""

    worker_id: str
    role: WorkerRole
    num_steps: int
    busy_ns: int
    busy_share: float
    gap_p50_ns: int
    gap_p99_ns: int


@dataclass(frozen=True, slots=True)
class TransferFigures:
    """All transfers. `hidden_share` weighs each by its duration; the rate is that of the bytes over
    the time in which at least one transfer was under way on its sender."""

    count: int
    num_bytes: int
    bytes_per_s: float
    hidden_share: float


@dataclass(frozen=True, slots=True)
class PipelineFigures:
    """The whole. The makespan is from the first step's start to the last one's end; `efficiency` is
    busy / (engines * makespan). Without steps all are 0."""

    lanes: tuple[LaneFigures, ...]
    transfers: TransferFigures
    makespan_ns: int
    efficiency: float


def pipeline_figures(lanes: Sequence[Lane]) -> PipelineFigures:
    """The figures of a window of the timeline."""
    steps = [lane.of_kind(SpanKind.STEP) for lane in lanes]
    makespan_ns = _makespan_ns(lanes, steps)
    figures = tuple(
        _lane_figures(lane, own, makespan_ns) for lane, own in zip(lanes, steps, strict=True)
    )
    busy_ns = sum(lane.busy_ns for lane in figures)
    return PipelineFigures(
        lanes=figures,
        transfers=_transfer_figures(lanes),
        makespan_ns=makespan_ns,
        efficiency=_ratio(busy_ns, len(lanes) * makespan_ns),
    )


def hidden_share(transfers: Iterable[Span]) -> float:
    """The share of the transfers' time that compute hid: of one, 1 - max(0, commit - compute end) /
    span, on the sender's clock alone, where a span ends with the commit. 1 if there were none."""
    total_ns = total_exposed_ns = 0
    for span in transfers:
        total_ns += span.end_ns - span.start_ns
        total_exposed_ns += exposed_ns(span)
    return 1.0 - _ratio(total_exposed_ns, total_ns)


def exposed_ns(transfer: Span) -> int:
    """How long a transfer went on when nothing was computed any more that it could hide behind."""
    # KV can leave only after the compute that made it, but for a transfer of nothing.
    duration_ns = transfer.end_ns - transfer.start_ns
    return min(duration_ns, max(0, transfer.end_ns - transfer.compute_end_ns))


def covered_ns(spans: Iterable[Span], since_ns: int | None = None) -> int:
    """The time, perhaps only since then, in which at least one of the spans was under way."""
    covered = 0
    frontier = since_ns
    for span in sorted(spans, key=START):
        start_ns = span.start_ns if frontier is None else max(span.start_ns, frontier)
        covered += max(0, span.end_ns - start_ns)
        frontier = max(start_ns, span.end_ns)
    return covered


def gaps_ns(steps: Sequence[Span]) -> list[int]:
    """The idle gaps between back-to-back steps: each one's before a step whose work was there when
    the step before it ended. `steps` are in order of their start."""
    return [
        max(0, later.start_ns - earlier.end_ns)
        for earlier, later in pairwise(steps)
        if not later.waited
    ]


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed, one that was
    measured and not between two as in reports of loads; 0 if there are none."""
    if not values:
        return 0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _lane_figures(lane: Lane, steps: Sequence[Span], makespan_ns: int) -> LaneFigures:
    gaps = gaps_ns(steps)
    busy_ns = covered_ns(steps)
    return LaneFigures(
        worker_id=lane.worker_id,
        role=lane.role,
        num_steps=len(steps),
        busy_ns=busy_ns,
        busy_share=_ratio(busy_ns, makespan_ns),
        gap_p50_ns=percentile(gaps, 0.5),
        gap_p99_ns=percentile(gaps, 0.99),
    )


def _transfer_figures(lanes: Iterable[Lane]) -> TransferFigures:
    by_lane = [lane.of_kind(SpanKind.TRANSFER) for lane in lanes]
    transfers = [span for spans in by_lane for span in spans]
    num_bytes = sum(span.num_bytes for span in transfers)
    sending_ns = sum(covered_ns(spans) for spans in by_lane)
    return TransferFigures(
        count=len(transfers),
        num_bytes=num_bytes,
        bytes_per_s=_ratio(num_bytes * 10**9, sending_ns),
        hidden_share=hidden_share(transfers),
    )


def _makespan_ns(lanes: Sequence[Lane], steps: Sequence[Sequence[Span]]) -> int:
    """`steps` are each lane's, in order of their start."""
    busy = [(lane.clock_offset_ns, own) for lane, own in zip(lanes, steps, strict=True) if own]
    if not busy:
        return 0
    start_ns = min(offset + own[0].start_ns for offset, own in busy)
    end_ns = max(offset + max(step.end_ns for step in own) for offset, own in busy)
    return end_ns - start_ns


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
