"""A prefill worker, as the gateway sees it: its batches, and the prompts in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.generation import Generation, Phase
from gateway.send_rate import SendRate
from gateway.stages import transfer_times
from gateway.worker_view import WorkerView
from tandem.core.reports import Span, SpanKind

# One batch runs, one waits behind it.
MAX_BATCHES = 2
# Of a prefill worker's pool, for prompts that go to one and the same decode worker.
MAX_DESTINATION_SHARE = 0.5


@dataclass(slots=True, eq=False)
class FormingBatch:
    """A batch whose reservations are not all answered. `chunks` are (generation, start, end)."""

    chunks: list[tuple[Generation, int, int]] = field(default_factory=list)
    unanswered: set[int] = field(default_factory=set)

    @property
    def num_tokens(self) -> int:
        """Those that are not thought to be cached."""
        return sum(
            end - max(start, generation.expected_cached_tokens)
            for generation, start, end in self.chunks
        )


@dataclass(slots=True, eq=False)
class PrefillView(WorkerView):
    """A prefill worker. `batches` are what it runs or has waiting, by id, in tokens that are not
    thought to be cached; `send_rate` is how fast KV leaves it. `failed_edges`
    are decode workers that it could not reach of late, and until when they are avoided; `started`
    are the prompts that have chunks left, of those that it has begun or is about to;
    `bound_blocks` counts the blocks of prompts by the decode worker that they are bound for."""

    batches: dict[int, int] = field(default_factory=dict)
    forming: FormingBatch | None = None
    started: dict[int, Generation] = field(default_factory=dict)
    send_rate: SendRate = field(default_factory=SendRate)
    failed_edges: dict[str, float] = field(default_factory=dict)
    bound_blocks: Counter[str] = field(default_factory=Counter)

    @property
    def has_slot(self) -> bool:
        """Whether it can take a batch: while it drains, of prompts that have started there."""
        return not self.suspect and self.forming is None and len(self.batches) < MAX_BATCHES

    def heard(self, now: float, spans: Sequence[Span]) -> None:
        """As `WorkerView.heard`. Failures that are long enough ago are forgotten."""
        WorkerView.heard(self, now, spans)
        self.send_rate.observe([each for each in spans if each.kind is SpanKind.FRAME_SENT])
        for span in spans:
            if span.kind is SpanKind.TRANSFER and (
                generation := self.generations.get(span.sequence_id)
            ):
                generation.attempts.current.transfer = transfer_times(span, self.local_s)
        if self.failed_edges:
            self.failed_edges = {
                name: until for name, until in self.failed_edges.items() if until > now
            }

    def may_send_to(self, decode_worker: str, num_tokens: int, *, has_others: bool = True) -> bool:
        """Whether one more prompt of so many tokens may go to a decode worker: what is on the way
        to one keeps to its share of the pool where it `has_others` beside it, for whom a slow one
        would in time leave nothing."""
        if not has_others:
            return True
        num_blocks = self.bound_blocks[decode_worker]
        limit = MAX_DESTINATION_SHARE * self.info.num_blocks
        return num_blocks == 0 or num_blocks + self.blocks_for(num_tokens) <= limit

    @property
    def unfinished(self) -> list[Generation]:
        """Its prompts that have chunks left, and their first one behind them."""
        return [each for each in self.started.values() if each.phase is Phase.PREFILLING]

    def chunk_end(self, generation: Generation, budget: int) -> int | None:
        """Where the next chunk of at most `budget` tokens ends: with the context, or with a block;
        None if nothing fits. What is cached costs nothing, and goes with the first chunk."""
        start = generation.num_scheduled or self.cached_tokens(generation)
        if generation.num_context_tokens - start <= budget:
            return generation.num_context_tokens
        block_size = self.info.layout.block_size
        num_blocks = budget // block_size
        return start + num_blocks * block_size if num_blocks else None

    @property
    def queued_batches(self) -> list[int]:
        """Tokens of each batch that it runs or will run."""
        forming = [self.forming.num_tokens] if self.forming and self.forming.chunks else []
        return [*self.batches.values(), *forming]

    @property
    def num_queued_tokens(self) -> int:
        return sum(self.queued_batches)

    @property
    def queued_s(self) -> float:
        """In how many seconds it will have run all its batches."""
        return sum(map(self.step_times.seconds, self.queued_batches))

    def first_token_s(self, generation: Generation, num_tokens: int) -> float:
        """In how many seconds it would have computed a generation's context, and with it so many
        tokens in all, in the batch that forms or, if none does, in the next. While the batches that
        were sent run KV leaves, and makes room."""
        forming = self.forming.num_tokens if self.forming else 0
        sent_s = sum(map(self.step_times.seconds, self.batches.values()))
        wait_s = max(sent_s, self.room_s(generation))
        return wait_s + self.step_times.seconds(forming + num_tokens)

    def room_s(self, generation: Generation) -> float:
        """In how many seconds there will be blocks for a generation's context, if KV leaves as fast
        as it has; 0 while nothing is known of that."""
        num_blocks = self.num_used_blocks + self.blocks_for(generation.num_context_tokens)
        num_lacking = max(0, num_blocks - self.info.num_blocks)
        return self.send_rate.seconds(num_lacking * self.info.layout.block_bytes)

    def can_ever_take(self, generation: Generation) -> bool:
        """Whether the worker, were it empty, would have room for the context of a generation's next
        attempt, and would not end it for its length with the next token: others may go on with
        it."""
        num_tokens = generation.length
        return self.can_ever_hold(num_tokens, min(num_tokens + 2, generation.max_length))

    def can_take(self, generation: Generation) -> bool:
        """Whether there are blocks for a generation's context, and it can be taken at all."""
        has_room = self.has_blocks(self.blocks_for(generation.num_context_tokens))
        return self.takes_more and has_room and self.can_ever_take(generation)

    def enter(self, generation: Generation, num_blocks: int) -> None:
        WorkerView.enter(self, generation, num_blocks)
        self.bound_blocks[generation.decode_worker] += num_blocks

    def leave(self, generation: Generation) -> int:
        num_blocks = WorkerView.leave(self, generation)
        self.bound_blocks[generation.decode_worker] -= num_blocks
        if not self.bound_blocks[generation.decode_worker]:
            del self.bound_blocks[generation.decode_worker]
        self.started.pop(generation.sequence_id, None)
        if forming := self.forming:
            forming.chunks = [each for each in forming.chunks if each[0] is not generation]
            forming.unanswered.discard(generation.sequence_id)
        return num_blocks
