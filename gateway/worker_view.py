"""A worker, as the gateway sees it. The worker's own accounting is authoritative; these are
hints, kept so that what is asked of a worker is not refused."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from gateway.own_prompts import OwnPrompts
from gateway.prefix_index import PrefixIndex
from gateway.send_rate import SendRate
from gateway.stages import transfer_times
from gateway.step_times import StepTimes
from tandem.core.commands import Reserve, SetStepRule
from tandem.core.kv import Plane
from tandem.core.plan import StepRule
from tandem.core.reports import Span, SpanKind
from tandem.core.span_totals import SpanTotals
from tandem.core.worker import ModelInfo, WorkerInfo

if TYPE_CHECKING:
    from gateway.generation import Generation

# One batch runs, one waits behind it.
MAX_BATCHES = 2
# Of a prefill worker's pool, for prompts that go to one and the same decode worker.
MAX_DESTINATION_SHARE = 0.5
# A budget of prompt tokens that differs by less stays.
BUDGET_CHANGE = 0.25
# Of who was not told to compute any.
NO_PROMPTS = StepRule(0, mixed=True)


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
    `num_free_blocks`, and `num_unused_slots` of the others that hold no token, at `heard_s`;
    `clock_offset_ns`, added to its clock, gives the gateway's. `met` is what it runs, and what all
    run that it was ever together with: it may have their KV.

    One that is `suspect` may be lost, one that is `stopping` is about to end, and one that is
    `cordoned` an operator has taken out of service: they take nothing new. What the latter two
    still hold at `hand_over_s`, in monotonic seconds, goes on elsewhere; who is `dismissed` was
    told that it can end."""

    info: WorkerInfo
    address: str
    suspect: bool = False
    stopping: bool = False
    cordoned: bool = False
    hand_over_s: float = inf
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

    def has_said(self, use: PoolUse) -> bool:
        """How its pool is used. True if it may take now what it could not."""
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
        """Leading tokens of a context that the worker has cached, as far as is known."""
        return generation.prefix.num_cached_tokens(self.prefix_index) if generation.prefix else 0

    def uncached_tokens(self, generation: Generation) -> int:
        """Tokens of a context that it would have to compute."""
        return generation.num_context_tokens - self.cached_tokens(generation)

    def stepped(self, span: Span) -> None:
        """It says of a step what it was."""
        self.step_times.observe(span.num_prefill_tokens, span.duration_s)

    def blocks_for(self, num_tokens: int) -> int:
        return self.info.layout.blocks_for(num_tokens)

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

    def can_ever_hold(self, num_tokens: int) -> bool:
        """Whether the worker, were it empty, would have room for a sequence of so many tokens."""
        return self.blocks_for(num_tokens) <= self.info.num_blocks

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


@dataclass(slots=True, eq=False)
class FormingBatch:
    """A batch whose reservations, made at `since_s`, are not all answered. `chunks` are
    (generation, start, end)."""

    since_s: float
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
        for span in spans:
            if span.kind is SpanKind.FRAME_SENT:
                self.send_rate.observe(span.num_bytes, span.duration_s)
            elif span.kind is SpanKind.TRANSFER and (
                generation := self.generations.get(span.sequence_id)
            ):
                generation.attempts.current.transfer = transfer_times(span, self.local_s)
        if self.failed_edges:
            self.failed_edges = {
                name: until for name, until in self.failed_edges.items() if until > now
            }

    def may_send_to(self, decode_worker: str, num_tokens: int) -> bool:
        """Whether one more prompt of so many tokens may go to a decode worker: what is on the way
        to one keeps to its share of the pool, or a slow one would in time hold all of it."""
        num_blocks = self.bound_blocks[decode_worker]
        limit = MAX_DESTINATION_SHARE * self.info.num_blocks
        return num_blocks == 0 or num_blocks + self.blocks_for(num_tokens) <= limit

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

    def finish_s(self, num_tokens: int) -> float:
        """In how many seconds it would have computed so many tokens more, in the batch that forms
        or, if none does, in the next."""
        forming = self.forming.num_tokens if self.forming else 0
        sent_s = sum(map(self.step_times.seconds, self.batches.values()))
        return sent_s + self.step_times.seconds(forming + num_tokens)

    def can_take(self, generation: Generation) -> bool:
        """Whether there are blocks for a generation's context."""
        return self.takes_more and self.has_blocks(self.blocks_for(generation.num_context_tokens))

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


@dataclass(slots=True, eq=False)
class DecodeView(WorkerView):
    """A decode worker. `asked_blocks` were asked for since it was last heard, by sequence, and are
    not granted yet; it `owes_answers` if that took too long, until it is
    heard. `num_refused_blocks`: it refused a reservation of so many blocks, and was not heard to
    have them since; 0 if it refused none.
    `step_rule` is what it was told to compute prompts by, if it was; `idle_step_times` are those
    of its steps without sequences, if the rule has a budget for them. Of its generations
    `num_running` are decoded, or were before they were parked; the others' prompts are still
    computed, here or elsewhere.
    `recompute_token_s` is what it was told that computing a token again takes. `shared_blocks` are
    cached ones that sequences have in common, by digest, and how many have each; `own_prompts` are
    those that it computes itself. `tenant_seqs` and `tenant_blocks` are what each tenant holds."""

    asked_blocks: dict[int, int] = field(default_factory=dict)
    owes_answers: bool = False
    num_refused_blocks: int = 0
    step_rule: StepRule = NO_PROMPTS
    num_running: int = 0
    idle_step_times: StepTimes = field(default_factory=StepTimes)
    recompute_token_s: float = 0.0
    shared_blocks: Counter[int] = field(default_factory=Counter)
    own_prompts: OwnPrompts = field(default_factory=OwnPrompts)
    tenant_seqs: Counter[str] = field(default_factory=Counter)
    tenant_blocks: Counter[str] = field(default_factory=Counter)

    def set_step_rule(self, rule: StepRule) -> SetStepRule | None:
        """What to tell it, so that it fills its steps by a rule; None if the one that it knows is
        near enough."""
        known = self.step_rule
        if (
            rule.mixed == known.mixed
            and not _differs(rule.prefill_token_budget, known.prefill_token_budget)
            and not _differs(rule.idle_token_budget, known.idle_token_budget)
        ):
            return None
        self.step_rule = rule
        return SetStepRule(rule)

    @property
    def step_token_budget(self) -> int:
        """Prompt tokens that its next step may have, if it was told a number."""
        return self.step_rule.budget(is_idle=not self.num_running)

    @property
    def prompt_times(self) -> StepTimes:
        """How long the steps take that compute prompts next."""
        is_idle = not self.num_running and self.idle_step_times.is_measured
        return self.idle_step_times if is_idle else self.step_times

    @property
    def least_token_s(self) -> float:
        """Seconds for each prompt token of the step where that was least; infinite if there was
        none."""
        return min(self.step_times.least_token_s, self.idle_step_times.least_token_s)

    @property
    def num_prompt_tokens_left(self) -> int:
        """Tokens of the prompts that it computes itself, and has yet to."""
        return self.own_prompts.num_tokens_left

    def stepped(self, span: Span) -> None:
        """As `WorkerView.stepped`. Steps by the idle budget, without sequences, say nothing of
        those that have some."""
        num_tokens = span.num_prefill_tokens
        if self.step_rule.idle_token_budget and 0 < num_tokens == span.num_tokens:
            self.idle_step_times.observe(num_tokens, span.duration_s)
        else:
            WorkerView.stepped(self, span)
        if num_tokens:
            self.own_prompts.stepped(num_tokens)

    def has_said(self, use: PoolUse) -> bool:
        """As `WorkerView.has_said`."""
        has_more = self.owes_answers or use.num_free_blocks > self.num_free_blocks
        self.owes_answers = False
        WorkerView.has_said(self, use)
        if 0 < self.num_refused_blocks <= self.num_free_blocks:
            self.num_refused_blocks = 0
            return True
        return has_more

    def first_tokens(self, generation: Generation) -> int:
        """Tokens that a generation gets blocks for when it comes: a block's more than it has, so
        that each of its attempts brings it further. It takes others as it grows."""
        num_tokens = generation.num_context_tokens + self.info.layout.block_size
        return min(num_tokens, generation.max_length)

    def can_take(self, generation: Generation) -> bool:
        """Whether there are the blocks that a generation begins with, and will be those that it and
        the others are expected to have in the end. Cached ones that others have here cost
        nothing."""
        if not self.takes_more or self.num_refused_blocks or self.owes_answers:
            return False
        num_shared = self._num_shared(self._cached_digests(generation))
        num_first = self.blocks_for(self.first_tokens(generation)) - num_shared
        num_expected = self.blocks_for(generation.expected_length) - num_shared
        num_asked = sum(self.asked_blocks.values())
        return num_first + num_asked <= self.num_free_blocks and self.has_blocks(num_expected)

    def has_blocks(self, num_blocks: int) -> bool:
        return WorkerView.has_blocks(self, num_blocks + len(self.shared_blocks))

    def ask(self, generation: Generation, preemption_rank: tuple[float, ...]) -> Reserve:
        """A generation comes, if the worker grants this."""
        num_tokens, digests = self.first_tokens(generation), self._cached_digests(generation)
        num_asked = self.blocks_for(num_tokens) - self._num_shared(digests)
        self.asked_blocks[generation.sequence_id] = num_asked
        generation.shared_digests = digests
        self.shared_blocks.update(digests)
        self.enter(generation, self.blocks_for(generation.expected_length) - len(digests))
        return generation.reserve(num_tokens, preemption_rank)

    def enter(self, generation: Generation, num_blocks: int) -> None:
        """A generation comes, and takes so many blocks that are not shared."""
        WorkerView.enter(self, generation, num_blocks)
        self._hold(generation, 1, num_blocks)

    def armed(self, generation: Generation) -> None:
        """A generation's KV is complete, and its blocks are cached, but for those that another had
        cached before: of these it has copies of its own. Idempotent."""
        if generation.armed:
            return
        generation.mark_armed()
        self.num_running += 1
        self.own_prompts.discard(generation)
        if generation.prefix is None:
            return
        digests = generation.prefix.digests()
        num_shared = len(generation.shared_digests)
        if num_shared == self._num_shared(digests):
            published = digests[num_shared:]
            self.shared_blocks.update(published)
            generation.shared_digests = digests
            self._take(generation, -len(published))

    def answered(self, sequence_id: int) -> None:
        """It has granted or refused what it was asked for."""
        self.asked_blocks.pop(sequence_id, None)

    def refused(self, generation: Generation) -> None:
        """It had no room for a generation, which has left. What is cached may not be held by
        others: it is asked again when there is room for all."""
        self.num_refused_blocks = self.blocks_for(self.first_tokens(generation))

    def leave(self, generation: Generation) -> int:
        self.num_refused_blocks = 0
        self.answered(generation.sequence_id)
        self.own_prompts.discard(generation)
        is_here = generation.sequence_id in self.generations
        num_blocks = WorkerView.leave(self, generation)
        if is_here:
            self.num_running -= generation.armed
            self._hold(generation, -1, -num_blocks)
            self._unshare(generation)
        return num_blocks

    def _cached_digests(self, generation: Generation) -> list[int]:
        """What names the blocks of a generation that are cached here."""
        num_blocks = self.cached_tokens(generation) // self.info.layout.block_size
        return generation.prefix.digests(num_blocks) if generation.prefix else []

    def _num_shared(self, digests: Sequence[int]) -> int:
        """How many leading blocks are shared here already: where one is, all before it are."""
        return bisect_left(digests, True, key=lambda each: each not in self.shared_blocks)

    def _unshare(self, generation: Generation) -> None:
        for each in generation.shared_digests:
            self.shared_blocks[each] -= 1
            if not self.shared_blocks[each]:
                del self.shared_blocks[each]
        generation.shared_digests = []

    def _take(self, generation: Generation, num_blocks: int) -> None:
        """It has so many blocks more to itself."""
        self._blocks[generation.sequence_id] += num_blocks
        self.num_used_blocks += num_blocks
        self._hold(generation, 0, num_blocks)

    def _hold(self, generation: Generation, num_seqs: int, num_blocks: int) -> None:
        self.tenant_seqs[generation.request.tenant] += num_seqs
        self.tenant_blocks[generation.request.tenant] += num_blocks

    def kv_bytes(self, num_tokens: int) -> int:
        """Bytes of the KV of this many tokens."""
        layout = self.info.layout
        return num_tokens * layout.token_bytes * layout.num_layers * len(Plane)


def _differs(budget: int, known: int) -> bool:
    return abs(budget - known) > BUDGET_CHANGE * known
