"""The generations that no worker has yet, in a policy's order."""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf

from gateway.generation import Generation
from gateway.policies import QueuePolicy, WaitingPrompt

Rank = tuple[float, int]
"""The policy's, and the number of the arrival: no two are equal."""


class PrefillQueue:
    """Ordered by rank. A generation's is the same for as long as it is queued, and its age is not
    lost when it is taken and comes back."""

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._queued: list[Generation] = []

    def rank(self, generation: Generation) -> Rank:
        """Where a generation stands, queued or not: one that has started by what is left of it.
        What has had its turn, and lost its place on a worker, is before all that has not."""
        if generation.is_resumed:
            return -inf, generation.arrival
        work_s = generation.num_tokens_left * generation.token_s
        prompt = WaitingPrompt(generation.arrived_s, work_s)
        return self._policy.rank(prompt), generation.arrival

    def push(self, generation: Generation) -> None:
        insort(self._queued, generation, key=self.rank)

    def peek(self) -> Generation | None:
        """The next one, or None."""
        return self._queued[0] if self._queued else None

    def remove(self, generation: Generation) -> None:
        """Take one that is queued."""
        del self._queued[bisect_left(self._queued, self.rank(generation), key=self.rank)]

    def __len__(self) -> int:
        return len(self._queued)
