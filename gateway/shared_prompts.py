"""Prompts that begin like one that is just being computed.

What begins alike shares its KV, but only once that is cached: of several that come together each
would be computed, moved and held by itself. So those that come second wait until the first is
through, where that saves more than it costs. They keep their place in the queue, and wait once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.decode_view import DecodeView
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.prefill_view import PrefillView

# What is computed meanwhile is to be shared, by this share of its tokens at the least: who waits
# for it would have taken as long with its own, by so many times.
MIN_SHARE = 0.5
# Tokens that are worth it while nothing is known of what they, or steps, cost.
MIN_TOKENS = 256
# How often one waits at the most: whom it waits for may be cancelled, or lose its place.
MAX_WAITS = 3


@dataclass(slots=True)
class _Leader:
    """One that a worker computes. `first` names its first block that is not cached, and
    `num_tokens` are those that have to be computed. Its `followers` begin with so many tokens as
    it does."""

    generation: Generation
    first: int
    num_tokens: int
    followers: dict[Generation, int] = field(default_factory=dict)


class Wait(NamedTuple):
    """Whom one waits for, how many tokens they begin with alike, and how many seconds later at the
    most its first token may come for it."""

    leader: Generation
    num_shared: int
    later_s: float


class SharedPrompts:
    """Who is computed, and who waits for that."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._leaders: dict[Generation, _Leader] = {}
        # Of several with one first block the one with the most tokens.
        self._by_first: dict[int, _Leader] = {}
        self._leader_of: dict[Generation, _Leader] = {}
        self.num_waiting: Counter[str] = Counter()
        """Of each tenant's."""

    def __len__(self) -> int:
        """All that wait."""
        return len(self._leader_of)

    def __contains__(self, generation: Generation) -> bool:
        """Whether it waits for another."""
        return generation in self._leader_of

    def begin(self, generation: Generation, worker: PrefillView | DecodeView) -> None:
        """A worker is to compute a generation's context."""
        first = _block_behind(generation, generation.expected_cached_tokens)
        if first is None or not worker.info.caches_prefixes:
            return
        leader = _Leader(generation, first, generation.num_tokens_left)
        self._leaders[generation] = leader
        known = self._by_first.get(first)
        if known is None or known.num_tokens < leader.num_tokens:
            self._by_first[first] = leader

    def worth_waiting(self, generation: Generation) -> Wait | None:
        """For whom a queued generation had better wait, or None."""
        if not self._by_first or generation.num_waits >= MAX_WAITS or generation.awaits_scores:
            return None
        num_cached = self._fleet.cached_where_computed(generation)
        first = _block_behind(generation, num_cached)
        leader = None if first is None else self._by_first.get(first)
        if leader is None:
            return None
        num_shared = _num_shared(generation, leader.generation)
        num_saved = num_shared - num_cached
        if not self._is_worth_it(num_saved, leader):
            return None
        later_s = (leader.num_tokens - num_saved) * self._fleet.token_s()
        return Wait(leader.generation, num_shared, max(0.0, later_s))

    def wait(self, generation: Generation, wait: Wait) -> None:
        """A queued generation waits for its leader."""
        generation.num_waits += 1
        found = self._leaders[wait.leader]
        found.followers[generation] = wait.num_shared
        self._leader_of[generation] = found
        self.num_waiting[generation.request.tenant] += 1

    def followers(self, leader: Generation) -> dict[Generation, int]:
        """Who waits for it, and how many tokens each begins with as it does."""
        found = self._leaders.get(leader)
        return dict(found.followers) if found else {}

    def leave(self, generation: Generation) -> None:
        """One that waits does so no more."""
        del self._leader_of.pop(generation).followers[generation]
        self.num_waiting[generation.request.tenant] -= 1

    def forget(self, leader: Generation) -> None:
        """Nobody is to wait for it any more, and nobody does. Idempotent."""
        found = self._leaders.pop(leader, None)
        if found and self._by_first.get(found.first) is found:
            del self._by_first[found.first]

    def _is_worth_it(self, num_tokens: int, leader: _Leader) -> bool:
        """Whether so many tokens are most of what the leader computes, and take longer than a step
        more."""
        token_s, step_s = self._fleet.token_s(), self._fleet.step_s()
        is_known = token_s and step_s
        is_much = num_tokens * token_s > step_s if is_known else num_tokens >= MIN_TOKENS
        return is_much and num_tokens >= MIN_SHARE * leader.num_tokens


def _block_behind(generation: Generation, num_tokens: int) -> int | None:
    """What names the block of a context behind so many tokens, or None if there is none."""
    if generation.prefix is None:
        return None
    place = num_tokens // generation.prefix.block_size
    digests = generation.prefix.digests()
    return digests[place] if place < len(digests) else None


def _num_shared(generation: Generation, other: Generation) -> int:
    """Tokens of the blocks that two contexts begin with."""
    assert generation.prefix
    assert other.prefix
    mine, others = generation.prefix.digests(), other.prefix.digests()
    # Where two blocks differ, so do all behind them: a name is that of all before it, too.
    differ = range(min(len(mine), len(others)))
    num_blocks = bisect_left(differ, True, key=lambda place: mine[place] != others[place])
    return num_blocks * generation.prefix.block_size
