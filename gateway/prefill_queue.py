"""The generations that no worker has yet: by tenants' turns, and each tenant's in a policy's
order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf, isnan

import structlog

from gateway.decode_view import DecodeView
from gateway.fair_shares import FairShares
from gateway.generation import Generation
from gateway.policies import QueuePolicy, WaitingPrompt
from gateway.prefill_view import PrefillView
from gateway.ranked_queue import Rank, RankedQueue
from gateway.shared_prompts import SharedPrompts, Wait

log = structlog.get_logger(__name__)


class PrefillQueue:
    """All tenants'. A generation's age is not lost when it is taken and comes back. Whatever the
    policy raises is raised by `check`, and by nothing else."""

    def __init__(self, policy: QueuePolicy, shares: FairShares, shared: SharedPrompts) -> None:
        self._policy = policy
        self._shares = shares
        self._shared = shared
        self._told_failure = False
        # Of the tenants that wait; the ranks of their heads; and whose will be on a decode worker.
        self._queues: dict[str, RankedQueue] = {}
        self._heads: dict[str, Rank] = {}
        self._decoding: dict[str, None] = {}

    @property
    def num_tokens_left(self) -> int:
        """Those of all prompts that are not thought to be cached."""
        return sum(queue.num_tokens_left for queue in self._queues.values())

    @property
    def num_in_all(self) -> int:
        """Generations: also those that wait for another, and cannot be taken."""
        return len(self) + len(self._shared)

    def num_queued(self, tenant: str) -> int:
        """How many of all these a tenant has."""
        num_ready = len(self._queues[tenant]) if tenant in self._queues else 0
        return num_ready + self._shared.num_waiting[tenant]

    def check(self, generation: Generation) -> None:
        """Raise what the policy, which may be anybody's, raises of a generation; also if what it
        says is no number. To be called before a new one is let in."""
        self._policy_rank(generation)
        self._policy_preemption_order(generation)

    def rank(self, generation: Generation) -> Rank:
        """Where a generation stands: as long as it is queued, where it came to; else where it would
        now, and one that has started by what is left of it. What has had its turn, and lost its
        place on a worker, is before all that has not. So is what was let in and the policy cannot
        rank any more: then it is done with soonest."""
        queue = self._queues.get(generation.request.tenant)
        if queue and (rank := queue.rank(generation)):
            return rank
        if generation.is_resumed:
            return -inf, generation.arrival
        try:
            return self._policy_rank(generation), generation.arrival
        except Exception:
            self._tell_failure()
            return -inf, generation.arrival

    def preemption_rank(self, generation: Generation) -> tuple[float, ...]:
        """The highest of the running generations gives way first, if one must: those that come
        while their tenant holds its share, and then by the policy; of those that this takes for
        equals, who came last. Where the policy fails it is the usual order."""
        try:
            order = self._policy_preemption_order(generation)
        except Exception:
            self._tell_failure()
            order = QueuePolicy.preemption_order(self._policy, self._running(generation))
        is_over = self._shares.is_over(generation.request.tenant)
        return float(is_over), *order, generation.arrival

    def push(self, generation: Generation) -> None:
        """Queue one that is new, or comes back."""
        tenant, rank = generation.request.tenant, self.rank(generation)
        if tenant not in self._queues:
            if not self._shared.num_waiting[tenant]:
                self._shares.came(tenant, self._queues)
            self._queues[tenant] = RankedQueue()
        self._queues[tenant].push(generation, rank)
        self._look_at_head(tenant)

    def peek(self) -> Generation | None:
        """The next one, or None."""
        if len(self._heads) > 1:
            return self._queues[self._shares.first(self._heads, self._decoding)].head
        return next((queue.head for queue in self._queues.values()), None)

    def next_of(self, head: Generation | None, started: Iterable[Generation]) -> Generation | None:
        """Who is computed next, of the head and of those that have started, each tenant's first:
        that of the tenant whose turn it is. Only one tenant's own are compared by their ranks."""
        firsts = {each.request.tenant: each for each in started}
        if head:
            tenant = head.request.tenant
            own = firsts.pop(tenant, None)
            # Of tenants that were served alike it is the head's turn: it waits for its first chunk.
            firsts = {tenant: min(filter(None, (own, head)), key=self.rank), **firsts}
        return firsts[self._shares.turn(firsts)] if firsts else None

    def num_tokens_ahead(self, generation: Generation, started: Iterable[Generation]) -> int:
        """Tokens of those that have started that are computed before a queued one, if it is the
        next of its tenant's."""
        tenant, rank = generation.request.tenant, self.rank(generation)
        num_tokens: Counter[str] = Counter()
        for each in started:
            if each.request.tenant != tenant or self.rank(each) < rank:
                num_tokens[each.request.tenant] += each.num_tokens_left
        num_own = num_tokens.pop(tenant, 0)
        return num_own + sum(
            min(num, self._shares.num_tokens_due(other, before=tenant))
            for other, num in num_tokens.items()
        )

    def last(self) -> Generation | None:
        """The last in the order of the tenant that has the most tokens here, or None."""
        queue = max(self._queues.values(), key=lambda each: each.num_tokens_left, default=None)
        return queue.last if queue else None

    def take(self, generation: Generation) -> None:
        """Take one that is queued, to serve it: its tenant is charged by `charge`."""
        self._shares.take(generation.request.tenant, self._decoding)
        self.remove(generation)

    def charge(self, generation: Generation, end: int) -> None:
        """The context of one that was taken will be computed up to its token `end`."""
        self._shares.charge(generation, end)

    def remove(self, generation: Generation) -> None:
        """Take one that is queued out of it, whatever becomes of it."""
        if generation in self._shared:
            self._shared.leave(generation)
        else:
            self._remove_ready(generation)

    # What begins alike

    def begun(self, generation: Generation, worker: PrefillView | DecodeView) -> None:
        """A worker is to compute one that was taken."""
        self._shared.begin(generation, worker)

    def worth_waiting(self, generation: Generation) -> Wait | None:
        """Who is computed for whom a queued one had better wait, and does not take its turn by
        that; or None."""
        wait = self._shared.worth_waiting(generation)
        return wait if wait and self.rank(wait.leader) < self.rank(generation) else None

    def set_aside(self, generation: Generation, wait: Wait) -> None:
        """A queued one waits for another."""
        self._remove_ready(generation)
        self._shared.wait(generation, wait)

    def done(self, generation: Generation) -> None:
        """One that was taken is through, or not computed any more: who waited for it is queued
        again. Idempotent."""
        for each, num_shared in self._shared.followers(generation).items():
            if generation.armed:
                # Its rank is by what is not cached, and stays while it is queued.
                each.expected_cached_tokens = max(each.expected_cached_tokens, num_shared)
            self.push(each)
            self._shared.leave(each)
        self._shared.forget(generation)

    def _remove_ready(self, generation: Generation) -> None:
        tenant = generation.request.tenant
        queue = self._queues[tenant]
        queue.remove(generation)
        if queue:
            self._look_at_head(tenant)
        else:
            del self._queues[tenant], self._heads[tenant]
            self._decoding.pop(tenant, None)

    def _look_at_head(self, tenant: str) -> None:
        """It may be another."""
        head = self._queues[tenant].head
        self._heads[tenant] = self.rank(head)
        if head.needs_decode:
            self._decoding[tenant] = None
        else:
            self._decoding.pop(tenant, None)

    def num_tokens_before(self, generation: Generation) -> float:
        """Prompt tokens that will be served before a generation, queued or not, if no more come:
        those before it of its tenant, and what others have served by their shares meanwhile."""
        tenant = generation.request.tenant
        own = self._queues.get(tenant)
        if own is None:
            return 0.0
        num_before = own.num_tokens_before(self.rank(generation))
        num_others = self.num_tokens_left - own.num_tokens_left
        share = self._shares.share(tenant, self._queues)
        return num_before + min(num_others, num_before * (1 / share - 1))

    def _tell_failure(self) -> None:
        """The policy has failed of one that was let in: said once, for it is asked all the time."""
        if not self._told_failure:
            self._told_failure = True
            log.exception("the policy fails of what it has ranked before")

    def _policy_rank(self, generation: Generation) -> float:
        rank = self._policy.rank(_prompt(generation))
        _require_numbers(rank)
        return rank

    def _policy_preemption_order(self, generation: Generation) -> tuple[float, ...]:
        order = self._policy.preemption_order(self._running(generation))
        _require_numbers(*order)
        return order

    def _running(self, generation: Generation) -> WaitingPrompt:
        """What its preemption goes by. Ranks on a worker are compared across tenants: there a
        client can say that its request is less important than others, and not that it is more."""
        prompt = _prompt(generation)
        if self._shares.has_several:
            return prompt._replace(priority=max(0, prompt.priority))
        return prompt

    def __len__(self) -> int:
        """Those that can be taken."""
        return sum(map(len, self._queues.values()))


def _prompt(generation: Generation) -> WaitingPrompt:
    request = generation.request
    work_s = generation.num_tokens_left * generation.token_s
    return WaitingPrompt(generation.arrived_s, work_s, request.priority, request.deadline_s)


def _require_numbers(*said: float) -> None:
    if any(map(isnan, said)):
        raise ValueError("what a policy says is never NaN")
