"""The generations that no worker has yet: by tenants' turns, and each tenant's in a policy's
order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from math import inf

from gateway.fair_shares import FairShares
from gateway.generation import Generation
from gateway.policies import QueuePolicy, WaitingPrompt

Rank = tuple[float, int]
"""The policy's, and the number of the arrival: no two are equal."""


class TenantQueue:
    """One tenant's, ordered by rank. A generation's is the same for as long as it is queued.
    `num_tokens_left` are those of all prompts that are not thought to be cached."""

    def __init__(self, rank: Callable[[Generation], Rank]) -> None:
        self.num_tokens_left = 0
        self._rank = rank
        self._queued: list[Generation] = []

    @property
    def head(self) -> Generation:
        """The first of at least one."""
        return self._queued[0]

    @property
    def last(self) -> Generation:
        """The last of at least one."""
        return self._queued[-1]

    def push(self, generation: Generation) -> None:
        insort(self._queued, generation, key=self._rank)
        self.num_tokens_left += generation.num_tokens_left

    def remove(self, generation: Generation) -> None:
        del self._queued[self._place(generation)]
        self.num_tokens_left -= generation.num_tokens_left

    def num_tokens_before(self, generation: Generation) -> int:
        """Of the prompts before a generation, queued or not."""
        place, middle = self._place(generation), len(self._queued) // 2
        if place <= middle:
            return _num_tokens(self._queued[:place])
        return self.num_tokens_left - _num_tokens(self._queued[place:])

    def _place(self, generation: Generation) -> int:
        return bisect_left(self._queued, self._rank(generation), key=self._rank)

    def __len__(self) -> int:
        return len(self._queued)


class PrefillQueue:
    """All tenants'. A generation's age is not lost when it is taken and comes back."""

    def __init__(self, policy: QueuePolicy, shares: FairShares) -> None:
        self._policy = policy
        self._shares = shares
        # Of the tenants that wait, and the ranks of their heads.
        self._queues: dict[str, TenantQueue] = {}
        self._heads: dict[str, Rank] = {}

    @property
    def num_tokens_left(self) -> int:
        """Those of all prompts that are not thought to be cached."""
        return sum(queue.num_tokens_left for queue in self._queues.values())

    def num_queued(self, tenant: str) -> int:
        """How many a tenant has."""
        return len(self._queues[tenant]) if tenant in self._queues else 0

    def rank(self, generation: Generation) -> Rank:
        """Where a generation stands, queued or not: one that has started by what is left of it.
        What has had its turn, and lost its place on a worker, is before all that has not."""
        if generation.is_resumed:
            return -inf, generation.arrival
        return self._policy.rank(_prompt(generation)), generation.arrival

    def preemption_rank(self, generation: Generation) -> tuple[float, ...]:
        """The highest of the running generations gives way first, if one must; of those that the
        policy takes for equals, who came last."""
        return *self._policy.preemption_order(_prompt(generation)), generation.arrival

    def push(self, generation: Generation) -> None:
        """Queue one that is new, or comes back."""
        tenant = generation.request.tenant
        if tenant not in self._queues:
            self._shares.came(tenant, self._queues)
            self._queues[tenant] = TenantQueue(self.rank)
        self._queues[tenant].push(generation)
        self._heads[tenant] = self.rank(self._queues[tenant].head)

    def peek(self) -> Generation | None:
        """The next one, or None."""
        if len(self._heads) > 1:
            return self._queues[self._shares.first(self._heads)].head
        return next((queue.head for queue in self._queues.values()), None)

    def last(self) -> Generation | None:
        """The last in the order of the tenant that has the most tokens here, or None."""
        queue = max(self._queues.values(), key=lambda each: each.num_tokens_left, default=None)
        return queue.last if queue else None

    def take(self, generation: Generation) -> None:
        """Take one that is queued, to serve it, which its tenant is charged for."""
        self._shares.take(generation, self._heads)
        self.remove(generation)

    def remove(self, generation: Generation) -> None:
        """Take one that is queued, and will not be served."""
        tenant = generation.request.tenant
        queue = self._queues[tenant]
        queue.remove(generation)
        if queue:
            self._heads[tenant] = self.rank(queue.head)
        else:
            del self._queues[tenant], self._heads[tenant]
            self._shares.left(tenant)

    def num_tokens_before(self, generation: Generation) -> float:
        """Prompt tokens that will be served before a generation, queued or not, if no more come:
        those before it of its tenant, and what others have served by their shares meanwhile."""
        tenant = generation.request.tenant
        own = self._queues.get(tenant)
        if own is None:
            return 0.0
        num_before = own.num_tokens_before(generation)
        num_others = self.num_tokens_left - own.num_tokens_left
        share = self._shares.share(tenant, self._queues)
        return num_before + min(num_others, num_before * (1 / share - 1))

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))


def _prompt(generation: Generation) -> WaitingPrompt:
    request = generation.request
    work_s = generation.num_tokens_left * generation.token_s
    return WaitingPrompt(generation.arrived_s, work_s, request.priority, request.deadline_s)


def _num_tokens(generations: Iterable[Generation]) -> int:
    return sum(each.num_tokens_left for each in generations)
