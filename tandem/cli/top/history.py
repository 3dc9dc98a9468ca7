"""What the feed has told of late: the lanes of the last minutes, and samples of what is charted.

Times are microseconds on the gateway's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Reversible, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple, TypeVar

from tandem.cli.top.tick import Tick, Totals
from tandem.core.reports import SpanKind

KEPT_US = 120_000_000
MAX_SPANS = 20_000
MAX_SAMPLES = 480
# Ticks that a rate is taken over, and a share of what comes seldom.
RATE_TICKS = 8
SHARE_TICKS = 40


class Step(NamedTuple):
    """An engine's step: of its `num_tokens`, `num_prefill_tokens` are of prompts."""

    start_us: int
    end_us: int
    num_seqs: int
    num_tokens: int
    num_prefill_tokens: int


class Transfer(NamedTuple):
    """KV on its way; the last `exposed_us` of it no computing hid."""

    start_us: int
    end_us: int
    exposed_us: int


SpanT = TypeVar("SpanT", Step, Transfer)


class Sample(NamedTuple):
    """What is charted, at a tick. Rates are per second, times in seconds, `pool` and `prefix_hits`
    shares. None: nothing is known."""

    at_us: int
    totals: Totals
    generated: float | None
    first_token: float | None
    between_tokens: float | None
    waiting: float
    pool: float | None
    prefix_hits: float | None


@dataclass(slots=True)
class Lane:
    """What one worker did, in the order in which it ended."""

    worker_id: str
    role: str = ""
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))
    transfers: deque[Transfer] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))

    def take(self, rows: Iterable[Sequence[int]]) -> None:
        """Rows as `gateway/page/lane_reader.py` has them."""
        for kind, start_us, duration_us, *rest in rows:
            end_us = start_us + duration_us
            match kind, rest:
                case SpanKind.STEP, [num_seqs, num_tokens, num_prefill_tokens, *_]:
                    step = Step(start_us, end_us, num_seqs, num_tokens, num_prefill_tokens)
                    self.steps.append(step)
                case SpanKind.TRANSFER, [_, _, exposed_us, *_]:
                    self.transfers.append(Transfer(start_us, end_us, exposed_us))

    def forget(self, before_us: int) -> None:
        """Let go of what had ended before."""
        while self.steps and self.steps[0].end_us < before_us:
            self.steps.popleft()
        while self.transfers and self.transfers[0].end_us < before_us:
            self.transfers.popleft()


class History:
    """Of one gateway, since it was reached."""

    def __init__(self) -> None:
        self.tick: Tick | None = None
        self.lanes: dict[str, Lane] = {}
        self.samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    def reset(self) -> None:
        """Another gateway has another clock, and what was there is told again."""
        self.tick = None
        self.lanes.clear()
        self.samples.clear()

    def take(self, tick: Tick) -> None:
        """What is new."""
        for worker in tick.workers:
            self._lane(worker.id).role = worker.role
        for worker_id, rows in tick.lanes.items():
            self._lane(worker_id).take(rows)
        self.samples.append(self._sample(tick))
        self.tick = tick
        self._forget(tick)

    def shown_lanes(self) -> list[Lane]:
        """Prefill workers first. One whose worker is gone stays until its spans are old."""
        return sorted(
            self.lanes.values(), key=lambda lane: (lane.role != "prefill", lane.worker_id)
        )

    def _lane(self, worker_id: str) -> Lane:
        return self.lanes.setdefault(worker_id, Lane(worker_id))

    def _sample(self, tick: Tick) -> Sample:
        pools = [each for each in tick.workers if each.role == "decode"]
        num_blocks = sum(each.blocks for each in pools)
        num_used = sum(each.used_blocks for each in pools)
        return Sample(
            at_us=tick.now,
            totals=tick.totals,
            generated=self._generated_per_s(tick),
            first_token=tick.first_token_s[0],
            between_tokens=tick.between_tokens_s[0],
            waiting=tick.queue[0],
            pool=num_used / num_blocks if num_blocks else None,
            prefix_hits=self._prefix_hits(tick.totals),
        )

    def _generated_per_s(self, tick: Tick) -> float | None:
        before = self._before(RATE_TICKS)
        if before is None or tick.now <= before.at_us:
            return None
        num_tokens = tick.totals.generated_tokens - before.totals.generated_tokens
        return num_tokens / ((tick.now - before.at_us) / 1e6)

    def _prefix_hits(self, totals: Totals) -> float | None:
        before = self._before(SHARE_TICKS)
        num_tokens = totals.prompt_tokens - before.totals.prompt_tokens if before else 0
        if before is None or num_tokens <= 0:
            return None
        return (totals.cached_tokens - before.totals.cached_tokens) / num_tokens

    def _before(self, num_ticks: int) -> Sample | None:
        """The sample so many ticks ago, or the first."""
        return self.samples[-min(num_ticks, len(self.samples))] if self.samples else None

    def _forget(self, tick: Tick) -> None:
        present = {worker.id for worker in tick.workers}
        for lane in list(self.lanes.values()):
            lane.forget(tick.now - KEPT_US)
            if not (lane.steps or lane.transfers or lane.worker_id in present):
                del self.lanes[lane.worker_id]


def within(spans: Reversible[SpanT], start_us: int, end_us: int) -> list[SpanT]:
    """Those that are seen within a time, of spans in the order of their ends. The newest first."""
    newest = takewhile(lambda span: span.end_us >= start_us, reversed(spans))
    return [span for span in newest if span.start_us < end_us]
