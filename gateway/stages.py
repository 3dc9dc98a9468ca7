"""How long a generation was where: the stages of each attempt at it, and what became of that.

Times are in monotonic seconds of the gateway's clock. What happens on a worker is told by the
worker's own clock, and is placed here as exactly as the offset between the two is known: so a stage
never begins before the one before it. A stage whose report was lost is counted to the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from math import inf
from typing import NamedTuple

from tandem.core.pipeline import hidden_share
from tandem.core.reports import Span

# A request that others preempt, or that is refused a place, again and again has any number of
# attempts; parking likewise.
MAX_KEPT = 16


class Stage(IntEnum):
    """Where an attempt is, in the order in which it gets there; it need not get everywhere. What
    the decode worker computes by itself goes from `PREFILL` to `DECODE`."""

    QUEUE = 0
    """No worker has it."""
    RESERVE = 1
    """It is placed: its batch forms, and its decode worker is asked for blocks."""
    PREFILL_WAIT = 2
    """It is sent, and waits for the steps before its own."""
    PREFILL = 3
    """Its prompt is computed, in one step or several."""
    TRANSFER = 4
    """Its prompt is through, and of its KV not all is on the decode worker: what of the transfer no
    computing hid."""
    ARMED_WAIT = 5
    """All of its KV is there, and waits for a step to begin."""
    DECODE = 6
    """It is in the decode worker's steps."""


class AttemptEnd(StrEnum):
    """Why an attempt was not the last."""

    WORKER_LOST = "worker_lost"
    BAD_KV = "bad_kv"
    PREEMPTED = "preempted"
    REFUSED = "refused"
    """The decode worker had no room after all."""
    UNANSWERED = "unanswered"
    """The decode worker had not said whether it has room, and one of the two may be lost, or the
    decode worker does not know it; or it said so when the prompt's batch had left without it."""
    DRAINED = "drained"
    """Its worker is to let go of what it holds."""


class StageTimes(NamedTuple):
    """From when to when an attempt was in a stage."""

    stage: Stage
    start_s: float
    end_s: float


class TransferTimes(NamedTuple):
    """A whole transfer, from its first layer's being ready to its commit. `hidden_share` of it was
    under way while there was still something to compute."""

    start_s: float
    end_s: float
    num_bytes: int
    num_frames: int
    hidden_share: float


def transfer_times(span: Span, local_s: Callable[[int], float]) -> TransferTimes:
    """Those of a transfer's span, by what tells its worker's times in seconds of this clock."""
    return TransferTimes(
        local_s(span.start_ns),
        local_s(span.end_ns),
        span.num_bytes,
        num_frames=span.number,
        hidden_share=hidden_share([span]),
    )


@dataclass(slots=True)
class Attempt:
    """The `number`th attempt at a generation, and when it came to which stage. The workers know it
    as `sequence_id`. Of its context, `num_cached_tokens` were cached where it was computed. That
    was in `num_batches` prefill batches, of which the last was `batch_id` and had `num_batch_seqs`
    prompts, and in `num_steps` steps. `parked_s` are when it was preempted and stayed where it was.
    `end` is None if no other followed it. Its workers, and how many tokens it generated, are known
    when it has ended."""

    sequence_id: int
    number: int = 1
    prefill_worker: str = ""
    decode_worker: str = ""
    num_context_tokens: int = 0
    num_cached_tokens: int = 0
    num_batches: int = 0
    batch_id: int = 0
    num_batch_seqs: int = 0
    num_steps: int = 0
    num_tokens: int = 0
    transfer: TransferTimes | None = None
    parked_s: list[float] = field(default_factory=list)
    end_s: float = inf
    end: AttemptEnd | None = None
    _begun_s: list[float] = field(default_factory=lambda: [inf] * len(Stage))

    @property
    def start_s(self) -> float:
        return self._begun_s[Stage.QUEUE]

    def begun_s(self, stage: Stage) -> float:
        """Since when it is in a stage, or beyond; infinity if it did not get there."""
        return self._begun_s[stage]

    def begin(self, stage: Stage, at_s: float) -> None:
        """It comes to a stage. Who says so again changes nothing."""
        if self._begun_s[stage] == inf:
            self._begun_s[stage] = at_s

    def joins(self, batch_id: int, num_batch_seqs: int) -> None:
        """A batch has some of its prompt, and so many prompts in all."""
        self.num_batches += 1
        self.batch_id = batch_id
        self.num_batch_seqs = num_batch_seqs

    def park(self, at_s: float) -> None:
        if len(self.parked_s) < MAX_KEPT:
            self.parked_s.append(at_s)

    def stages(self) -> Iterator[StageTimes]:
        """Those that an attempt which has ended was in: each ends where the next begins."""
        begun = [stage for stage in Stage if self._begun_s[stage] < inf]
        start_s = self.start_s
        for stage, following in zip(begun, [*begun[1:], None], strict=True):
            end_s = self.end_s if following is None else self._begun_s[following]
            end_s = min(max(start_s, end_s), self.end_s)
            yield StageTimes(stage, start_s, end_s)
            start_s = end_s


class Attempts:
    """All attempts at a generation. `past` are those before the current one: of very many the first
    ones and the newest."""

    def __init__(self, sequence_id: int, now: float) -> None:
        self.past: list[Attempt] = []
        self.num_past = 0
        self._past_s = dict.fromkeys(Stage, 0.0)
        self.current = Attempt(sequence_id)
        self.current.begin(Stage.QUEUE, now)

    @property
    def kept(self) -> list[Attempt]:
        """The first one comes first."""
        return [*self.past, self.current]

    @property
    def workers(self) -> tuple[str, ...]:
        """Those of a generation that has ended."""
        names = (name for each in self.kept for name in (each.decode_worker, each.prefill_worker))
        return tuple(dict.fromkeys(filter(None, names)))

    @property
    def placed_s(self) -> float:
        """When the first attempt left the queue; infinity if it did not."""
        first = self.past[0] if self.past else self.current
        return first.begun_s(Stage.RESERVE)

    def next(self, sequence_id: int) -> None:
        """The current attempt has ended, and another begins."""
        ended = self.current
        for stage, start_s, end_s in ended.stages():
            self._past_s[stage] += end_s - start_s
        self.num_past += 1
        del self.past[MAX_KEPT - 1 :]
        self.past.append(ended)
        self.current = Attempt(sequence_id, self.num_past + 1)
        self.current.begin(Stage.QUEUE, ended.end_s)

    def seconds(self) -> Mapping[Stage, float]:
        """How long a generation that has ended was in each stage, in all its attempts. Together
        that is from its arrival to its end."""
        seconds = self._past_s.copy()
        for stage, start_s, end_s in self.current.stages():
            seconds[stage] += end_s - start_s
        return seconds
