"""A decode worker, as the gateway sees it: what its sequences hold, and how it fills its steps."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.own_prompts import OwnPrompts
from gateway.step_times import StepTimes
from gateway.worker_view import PoolUse, WorkerView
from tandem.core.commands import Reserve, SetStepRule
from tandem.core.kv import Plane
from tandem.core.plan import StepRule
from tandem.core.reports import Span

if TYPE_CHECKING:
    from gateway.generation import Generation

# A budget of prompt tokens that differs by less stays.
BUDGET_CHANGE = 0.25
# Prompts that wait on a worker behind the one under way, in steps' worth of tokens: enough that its
# steps are always full, and no more, so that the queue's order is decided as late as can be.
MAX_STEPS_WAITING = 2
# Of who was not told to compute any.
NO_PROMPTS = StepRule(0, mixed=True)


@dataclass(slots=True, eq=False)
class DecodeView(WorkerView):
    """A decode worker. `asked_blocks` were asked for since it was last heard, by sequence, and are
    not granted yet. `num_refused_blocks`: it refused a reservation of so many blocks, and was not
    heard to have them since; 0 if it refused none.
    `step_rule` is what it was told to compute prompts by, if it was; `idle_step_times` are those
    of its steps without sequences, if the rule has a budget for them. Of its generations
    `num_running` are decoded, or were before they were parked; the others' prompts are still
    computed, here or elsewhere.
    `recompute_token_s` is what it was told that computing a token again takes. `shared_blocks` are
    cached ones that sequences have in common, by digest, and how many have each; `own_prompts` are
    those that it computes itself. `tenant_seqs` and `tenant_blocks` are what each tenant holds."""

    asked_blocks: dict[int, int] = field(default_factory=dict)
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
    def wants_prompts(self) -> bool:
        """Whether fewer prompt tokens that are not cached wait behind the prompt under way than the
        next steps take."""
        num_waiting = self.own_prompts.num_tokens_behind
        return not self.own_prompts or num_waiting < MAX_STEPS_WAITING * self.step_token_budget

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

    def take_use(self, use: PoolUse) -> bool:
        """As `WorkerView.take_use`."""
        has_more = use.num_free_blocks > self.num_free_blocks
        WorkerView.take_use(self, use)
        if 0 < self.num_refused_blocks <= self.num_free_blocks:
            self.num_refused_blocks = 0
            return True
        return has_more

    def first_tokens(self, generation: Generation) -> int:
        """Tokens that a generation gets blocks for when it comes: a block's more than it has, so
        that each of its attempts brings it further. It takes others as it grows."""
        num_tokens = generation.num_context_tokens + self.info.layout.block_size
        return min(num_tokens, generation.max_length)

    def can_ever_take(self, generation: Generation) -> bool:
        """Whether the worker, were it empty, would have room for all that a generation may become,
        and its model takes so much."""
        return self.can_ever_hold(generation.max_length, generation.max_length)

    def can_take(self, generation: Generation) -> bool:
        """Whether there are the blocks that a generation begins with, and will be those that it and
        the others are expected to have in the end; and could be those that it has at the most, or
        it might wait for them for ever. Cached ones that others have here cost nothing."""
        if not self.takes_more or self.num_refused_blocks:
            return False
        if not self.can_ever_take(generation):
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

    def _cached_digests(self, generation: Generation) -> Sequence[int]:
        """What names the blocks of a generation that are cached here."""
        num_blocks = self.cached_tokens(generation) // self.info.layout.block_size
        return generation.prefix.digests()[:num_blocks] if generation.prefix else ()

    def _num_shared(self, digests: Sequence[int]) -> int:
        """How many leading blocks are shared here already: where one is, all before it are."""
        return bisect_left(digests, True, key=lambda each: each not in self.shared_blocks)

    def _unshare(self, generation: Generation) -> None:
        for each in generation.shared_digests:
            self.shared_blocks[each] -= 1
            if not self.shared_blocks[each]:
                del self.shared_blocks[each]
        generation.shared_digests = ()

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
