"""The generations that no worker has yet: by tenants' turns, and each tenant's in a policy's
order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from gateway.fair_shares import FairShares
from gateway.generation import Generation
from gateway.policies import QueuePolicy, WaitingPrompt

Rank = tuple[float, int]
"""The policy's, and the number of the arrival: no two are equal."""


class PrefillQueue:
    """Of each tenant ordered by rank. A generation's is the same for as long as it is queued, and
    its age is not lost when it is taken and comes back. `num_tokens` are those of all prompts."""

    def __init__(self, policy: QueuePolicy, shares: FairShares) -> None:
        self.num_tokens = 0
        self._policy = policy
        self._shares = shares
        # None is empty.
        self._queued: dict[str, list[Generation]] = {}

    def rank(self, generation: Generation) -> Rank:
        """Where a generation stands, queued or not: one that has started by what is left of it."""
        return self._policy.rank(_prompt(generation)), generation.arrival

    def preemption_order(self, generation: Generation) -> tuple[float, float]:
        """The highest of the running generations gives way first, if one must."""
        return self._policy.preemption_order(_prompt(generation))

    def push(self, generation: Generation) -> None:
        """Queue one that is new, or comes back."""
        tenant = generation.request.tenant
        self._shares.give_back(generation)
        if tenant not in self._queued:
            self._shares.came(tenant, self._queued)
        insort(self._queued.setdefault(tenant, []), generation, key=self.rank)
        self.num_tokens += generation.num_tokens_left

    def peek(self) -> Generation | None:
        """The next one, or None."""
        if len(self._queued) > 1:
            heads = {tenant: self.rank(queued[0]) for tenant, queued in self._queued.items()}
            return self._queued[self._shares.first(heads)][0]
        return next((queued[0] for queued in self._queued.values()), None)

    def take(self, generation: Generation) -> None:
        """Take one that is queued, to serve it: it is its tenant's turn."""
        self._shares.take(generation, self._queued)
        self.remove(generation)

    def remove(self, generation: Generation) -> None:
        """Take one that is queued, and will not be served."""
        tenant = generation.request.tenant
        queued = self._queued[tenant]
        del queued[self._place(generation, queued)]
        self.num_tokens -= generation.num_tokens_left
        if not queued:
            del self._queued[tenant]
            self._shares.left(tenant)

    def num_tokens_before(self, generation: Generation) -> float:
        """Prompt tokens that will be served before a generation, queued or not, if no more come:
        those before it of its tenant, and what others have served by their shares meanwhile."""
        tenant = generation.request.tenant
        own = self._queued.get(tenant, [])
        num_before = _num_tokens(own[: self._place(generation, own)])
        num_others = self.num_tokens - _num_tokens(own)
        share = self._shares.share(tenant, {tenant, *self._queued})
        return num_before + min(num_others, num_before * (1 / share - 1))

    def _place(self, generation: Generation, queued: list[Generation]) -> int:
        return bisect_left(queued, self.rank(generation), key=self.rank)

    def __len__(self) -> int:
        return sum(map(len, self._queued.values()))


def _prompt(generation: Generation) -> WaitingPrompt:
    request = generation.request
    work_s = generation.num_tokens_left * generation.token_s
    return WaitingPrompt(generation.arrived_s, work_s, request.priority, request.deadline_s)


def _num_tokens(generations: Sequence[Generation]) -> int:
    return sum(each.num_tokens_left for each in generations)
