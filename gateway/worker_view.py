"""A worker, as the gateway sees it: what both roles have. The worker's own accounting is
authoritative; these are hints, kept so that what is asked of a worker is not refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from gateway.prefix_index import PrefixIndex
from gateway.step_times import StepTimes
from tandem.core.reports import Span, SpanKind
from tandem.core.span_totals import SpanTotals
from tandem.core.worker import ModelInfo, WorkerInfo

if TYPE_CHECKING:
    from gateway.generation import Generation


class PoolUse(NamedTuple):
    """What a worker says of its pool: blocks that are free, and slots of the others that hold no
    token."""

    num_free_blocks: int
    num_unused_slots: int = 0


@dataclass(slots=True, eq=False)
class WorkerView:
    """What both roles have: identity, the blocks that the gateway's sequences take there, or will,
    how long steps take, what they did in all, and what is cached there. It has had prompts of
    `num_prompt_tokens` to compute, of which it had `num_cached_tokens`. It was last heard to have
    `num_free_blocks`, and `num_unused_slots` of the others that are for no token, at `heard_s`;
    `clock_offset_ns`, added to its clock, gives the gateway's. `met` is what it runs, and what all
    run that it was ever together with: it may have their KV.

    One that is `suspect`, since `suspected_s`, may be lost, one that is `stopping` is about to
    end, and one that is `cordoned` an operator has taken out of service: they take nothing new.
    What the latter two still hold at `hand_over_s` goes on elsewhere; who is `dismissed` was told
    that it can end. One that was suspect was last trusted again at `trusted_s`. If a step failed
    there of late, it counts as failed until `failed_until_s`. Times are in monotonic seconds."""

    info: WorkerInfo
    address: str
    suspected_s: float = inf
    trusted_s: float = -inf
    stopping: bool = False
    cordoned: bool = False
    hand_over_s: float = inf
    failed_until_s: float = 0.0
    dismissed: bool = False
    num_used_blocks: int = 0
    generations: dict[int, Generation] = field(default_factory=dict)
    step_times: StepTimes = field(default_factory=StepTimes)
    totals: SpanTotals = field(default_factory=SpanTotals)
    prefix_index: PrefixIndex = field(init=False)
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_free_blocks: int = field(init=False)
    num_unused_slots: int = 0
    clock_offset_ns: int = 0
    heard_s: float = inf
    met: set[ModelInfo] = field(default_factory=set)
    _blocks: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prefix_index = PrefixIndex(self.info.num_blocks)
        self.num_free_blocks = self.info.num_blocks

    @property
    def dependents(self) -> list[Generation]:
        """Of its generations those that need it, and go on elsewhere if it goes: not all of their
        KV has moved on."""
        return [each for each in self.generations.values() if not each.has_left(self)]

    def local_s(self, at_ns: int) -> float:
        """A time of the worker's clock that it told, in seconds of the gateway's. The offset is not
        exact, but what is told has happened."""
        return min((at_ns + self.clock_offset_ns) / 1e9, self.heard_s)

    def prompt_begins(self, generation: Generation, num_cached_tokens: int) -> None:
        """The worker says how much of a prompt it had cached: it may say so again, and so may
        others, when the generation goes on elsewhere."""
        generation.attempts.current.num_cached_tokens = num_cached_tokens
        if not generation.is_prompt_counted:
            generation.is_prompt_counted = True
            # Of another attempt than the first there may be more.
            num_cached_tokens = min(num_cached_tokens, generation.num_prompt_tokens)
            generation.num_cached_tokens = num_cached_tokens
            self.num_prompt_tokens += generation.num_prompt_tokens
            self.num_cached_tokens += num_cached_tokens

    def take_use(self, use: PoolUse) -> bool:
        """It says how its pool is used. True if it may take now what it could not."""
        self.num_free_blocks, self.num_unused_slots = use
        return False

    def heard(self, now: float, spans: Sequence[Span]) -> None:
        """The worker was heard of, and says what it did."""
        self.heard_s = now
        for span in spans:
            self.totals.add(span)
            if span.kind is SpanKind.STEP:
                self.stepped(span)

    def cached_tokens(self, generation: Generation) -> int:
        """Leading tokens of a context that the worker has cached, as far as is known, and need not
        compute."""
        if generation.prefix is None or generation.awaits_scores:
            return 0
        return generation.prefix.num_cached_tokens(self.prefix_index)

    def uncached_tokens(self, generation: Generation) -> int:
        """Tokens of a context that it would have to compute."""
        return generation.num_context_tokens - self.cached_tokens(generation)

    def stepped(self, span: Span) -> None:
        """It says of a step what it was."""
        self.step_times.observe(span.num_prefill_tokens, span.duration_s)

    def blocks_for(self, num_tokens: int) -> int:
        return self.info.layout.blocks_for(num_tokens)

    @property
    def suspect(self) -> bool:
        return self.suspected_s < inf

    def has_failed(self, now: float) -> bool:
        """Whether its engine failed of late: prompts go elsewhere, if they can."""
        return now < self.failed_until_s

    def forgive(self, now: float) -> bool:
        """Forget its failure, if that is old enough. True if it is forgotten by this."""
        is_forgiven = 0 < self.failed_until_s <= now
        if is_forgiven:
            self.failed_until_s = 0.0
        return is_forgiven

    @property
    def is_draining(self) -> bool:
        """Whether it is to let go of what it holds."""
        return self.stopping or self.cordoned

    @property
    def is_open(self) -> bool:
        """Whether it may be given something new."""
        return not self.suspect and not self.is_draining

    @property
    def takes_more(self) -> bool:
        """Whether one more sequence can be held, if there are blocks for it."""
        return self.is_open and len(self.generations) < self.info.max_num_seqs

    def has_blocks(self, num_blocks: int) -> bool:
        """Whether so many more blocks can be held beside those of its sequences."""
        return self.num_used_blocks + num_blocks <= self.info.num_blocks

    def can_ever_hold(self, num_tokens: int, length: int) -> bool:
        """Whether the worker, were it empty, would have room for so many tokens of a sequence, and
        its model takes one of that length. Of workers of one model either may differ."""
        has_room = self.blocks_for(num_tokens) <= self.info.num_blocks
        return has_room and length <= self.info.model.max_model_len

    def enter(self, generation: Generation, num_blocks: int) -> None:
        """A generation comes, and takes so many blocks."""
        self.generations[generation.sequence_id] = generation
        self._blocks[generation.sequence_id] = num_blocks
        self.num_used_blocks += num_blocks

    def leave(self, generation: Generation) -> int:
        """A generation leaves, if it is there; the blocks that it took."""
        self.generations.pop(generation.sequence_id, None)
        num_blocks = self._blocks.pop(generation.sequence_id, 0)
        self.num_used_blocks -= num_blocks
        return num_blocks
