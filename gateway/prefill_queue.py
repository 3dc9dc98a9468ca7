"""The generations that no worker has yet, in a policy's order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from operator import itemgetter

from gateway.generation import Generation
from gateway.policies import QueuePolicy, WaitingPrompt

Rank = tuple[float, int]
"""The policy's, and the number of the arrival: no two are equal."""


class PrefillQueue:
    """Ordered by the rank that each generation has when it comes. `token_s()` is how many seconds
    of work a prompt token is."""

    def __init__(self, policy: QueuePolicy, token_s: Callable[[], float]) -> None:
        self._policy = policy
        self._token_s = token_s
        self._entries: list[tuple[Rank, Generation]] = []
        self._ranks: dict[Generation, Rank] = {}

    def rank(self, generation: Generation) -> Rank:
        """Where a generation stands, queued or not: one that has started by what is left of it."""
        if known := self._ranks.get(generation):
            return known
        work_s = generation.num_tokens_left * self._token_s()
        prompt = WaitingPrompt(generation.arrived_s, work_s)
        return self._policy.rank(prompt), generation.arrival

    def push(self, generation: Generation) -> None:
        """One that was taken, and comes back, has not lost its age."""
        rank = self.rank(generation)
        self._ranks[generation] = rank
        insort(self._entries, (rank, generation), key=itemgetter(0))

    def peek(self) -> Generation | None:
        """The next one, or None."""
        return self._entries[0][1] if self._entries else None

    def remove(self, generation: Generation) -> None:
        """Take one that is queued."""
        rank = self._ranks.pop(generation)
        del self._entries[bisect_left(self._entries, rank, key=itemgetter(0))]

    def __len__(self) -> int:
        return len(self._entries)
